// The choices of a what-if, in the card of a token: an alternative, or a text of one's own.

import { openBranch } from "../council/api.js";
import { button, element, setText } from "../elements.js";

export class WhatIf {
  element = element("form", "what-if");
  #input = element("input");
  #problem = element("p", "notice");
  #send = button("Try it", () => {}, "plain");
  #place = null;
  #isAsking = false;
  #onOpened;
  #includesRemote;

  // onOpened(answer) when the branch was opened; includesRemote() is true if the user allows remote members.
  constructor(onOpened, includesRemote) {
    [this.#onOpened, this.#includesRemote] = [onOpened, includesRemote];
    this.#input.type = "text";
    this.#input.spellcheck = false;
    this.#input.autocomplete = "off";
    this.#send.type = "submit";
    this.#problem.setAttribute("role", "alert");
    const label = element("label", "", element("span", "", "What if it went on with…"), this.#input);
    const note = element("p", "quiet", "All members continue from there. This answer stays.");
    this.element.append(label, this.#send, note, this.#problem);
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#sayTyped(this.#input.value);
    });
  }

  // Begins at a place: {session, typed: {member, at, lead}}, where a text that is typed goes; `lead` is the white space that
  // stands before it unless it begins with white space of its own.
  begin(place) {
    this.#place = place;
    this.#input.value = "";
    this.#show("");
  }

  #sayTyped(text) {
    const { lead, ...place } = this.#place.typed;
    if (text) this.say({ ...place, say: /^\s/.test(text) ? text : lead + text });
    else this.#input.focus();
  }

  // Opens a branch: the member's answer up to the byte `at`, and then the text `say`.
  async say({ member, at, say }) {
    if (this.#isAsking) return;
    this.#isAsking = true;
    this.#send.setAttribute("aria-disabled", "true");
    try {
      const request = { member, at, say, allow_remote: this.#includesRemote() };
      this.#onOpened(await openBranch(this.#place.session, request));
    } catch (error) {
      this.#show(error.message);
    } finally {
      this.#isAsking = false;
      this.#send.removeAttribute("aria-disabled");
    }
  }

  #show(problem) {
    this.#problem.hidden = !problem;
    setText(this.#problem, problem);
  }
}
