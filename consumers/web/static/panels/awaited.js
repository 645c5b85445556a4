// The awaited members: their models load or wait, and the other members start together with them.
//
//   Waiting for big-model (loading): the others start together with it. 12 s   [Continue without big-model]

import { button, element, setText } from "../elements.js";
import { ended } from "../record/states.js";
import { WINDOWS_PER_SECOND } from "../record/windows.js";

// The claims of a session come within moments of each other: a sentence about those would only flash.
const SHOWN_AFTER_WINDOWS = 30;

export class Awaited {
  #root;
  #onGoOn;
  // The window since which each member is awaited, by its index.
  #since = new Map();
  // A live region of its own: seconds that count up are not read aloud.
  #sentence = element("span", "");
  #seconds = element("span", "value");
  #buttons = element("span", "actions");
  #shown = "";

  // onGoOn(index) when the user does not want to wait for this member.
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

  // Takes every new frame.
  take(frame) {
    frame.members.forEach((member, index) => {
      if (!member.awaited) this.#since.delete(index);
      else if (!this.#since.has(index)) this.#since.set(index, frame.window_index);
    });
  }

  // Draws the state of the newest frame, while the session runs.
  draw(frame, runs) {
    const windows = Math.max(0, ...[...this.#since.values()].map((since) => frame.window_index - since));
    this.#root.hidden = !runs || windows < SHOWN_AFTER_WINDOWS;
    if (this.#root.hidden) return;
    setText(this.#seconds, `${Math.floor(windows / WINDOWS_PER_SECOND)} s`);
    const members = [...this.#since.keys()].sort().map((index) => ({ ...frame.members[index], index }));
    const running = frame.members.filter(({ state }) => !ended(state));
    // If all running members are awaited, no other member can start without them.
    const canGoOn = members.length < running.length;
    setText(this.#sentence, sentenceOf(members, canGoOn));
    const shown = canGoOn ? members.map((member) => member.index).join() : "";
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#buttons.replaceChildren(
      ...(canGoOn ? members : []).map(({ name, index }) => button(`Continue without ${name}`, () => this.#onGoOn(index), "small")),
    );
  }
}

function sentenceOf(members, canGoOn) {
  const names = members.map(({ name, state }) => `${name} (${state === "loading" ? "loading" : "waiting for a slot or memory"})`);
  const others = canGoOn ? `: the others start together with ${members.length > 1 ? "them" : "it"}` : "";
  return `Waiting for ${names.join(" and ")}${others}.`;
}
