// Who is waited for: members whose models load or wait, before which the others do not begin.
//
//   Waiting for big-model, which loads: the others begin together with it. 12 s   [Go on without big-model]

import { button, element, setText } from "../elements.js";

const WINDOWS_A_SECOND = 60;
// Claims of one session come within moments of each other: a sentence for those would only flash.
const SHOWN_AFTER_WINDOWS = 30;

export class Awaited {
  #root;
  #onGoOn;
  // Since which window each member has been awaited, by its index.
  #since = new Map();
  // A live region of its own: seconds that count up are not read aloud.
  #sentence = element("span", "");
  #seconds = element("span", "value");
  #buttons = element("span", "actions");
  #shown = "";

  // onGoOn(index): a person does not want to wait for this member.
  constructor(root, onGoOn) {
    [this.#root, this.#onGoOn] = [root, onGoOn];
    this.#sentence.id = "awaited-sentence";
    this.#sentence.setAttribute("aria-live", "polite");
    root.append(this.#sentence, " ", this.#seconds, " ", this.#buttons);
  }

  begin() {
    this.#since.clear();
    this.#root.hidden = true;
    this.#shown = "";
  }

  // Every frame as it comes.
  take(frame) {
    frame.members.forEach((member, index) => {
      if (!member.awaited) this.#since.delete(index);
      else if (!this.#since.has(index)) this.#since.set(index, frame.window_index);
    });
  }

  // As of the newest frame, while the session runs.
  draw(frame, runs) {
    const windows = Math.max(0, ...[...this.#since.values()].map((since) => frame.window_index - since));
    this.#root.hidden = !runs || windows < SHOWN_AFTER_WINDOWS;
    if (this.#root.hidden) return;
    setText(this.#seconds, `${Math.floor(windows / WINDOWS_A_SECOND)} s`);
    const members = [...this.#since.keys()].sort().map((index) => ({ ...frame.members[index], index }));
    const running = frame.members.filter(({ state }) => state !== "finished" && state !== "dropped");
    // Where all of them are awaited no other is left to go on.
    const canGoOn = members.length < running.length;
    setText(this.#sentence, sentenceOf(members, canGoOn));
    const shown = canGoOn ? members.map((member) => member.index).join() : "";
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#buttons.replaceChildren(
      ...(canGoOn ? members : []).map(({ name, index }) => button(`Go on without ${name}`, () => this.#onGoOn(index), "small")),
    );
  }
}

function sentenceOf(members, canGoOn) {
  const said = members.map(({ name, state }) => `${name}, which ${state === "loading" ? "loads" : "waits for its turn"}`);
  const others = canGoOn ? `: the others begin together with ${members.length > 1 ? "them" : "it"}` : "";
  return `Waiting for ${said.join("; and for ")}${others}.`;
}
