// The answers of two members side by side, from their parting on.

import { byId, element, setText } from "../elements.js";
import { difference, sharedLength } from "../record/difference.js";
import { shapeIcon, colourNameOf } from "../stage/marks.js";

const EVERY_MS = 500;
// So much of the common text before the parting is shown.
const BEFORE_LETTERS = 80;

export class Compare {
  #root;
  #record = null;
  #choices;
  #window = -1;
  #drawnMs = 0;
  #drawn = "";

  constructor(root) {
    this.#root = root;
    this.#choices = [byId("compare-one"), byId("compare-other")];
    for (const choice of this.#choices) choice.addEventListener("change", () => this.draw(this.#window, performance.now(), true));
  }

  get isOpen() {
    return !this.#root.hidden;
  }

  begin(record) {
    this.#record = record;
    this.#drawn = "";
    if (record.columns.names.length < 2) this.open(false);
    this.#choices.forEach((choice, index) => {
      choice.replaceChildren(
        ...record.columns.names.map((model, index) => new Option(`${index + 1} ${model}`, String(index))),
      );
      choice.value = String(Math.min(index, record.columns.names.length - 1));
    });
  }

  open(isOpen) {
    this.#root.hidden = !isOpen;
    byId("compare-button").setAttribute("aria-expanded", String(isOpen));
    if (isOpen) this.draw(this.#window, performance.now(), true);
  }

  // Draws the answers at the end of a window. True if a text has grown but it is too early to draw again.
  draw(window, nowMs, isDue = false) {
    this.#window = window;
    if (!this.isOpen || !this.#record) return false;
    const [one, other] = this.#choices.map((choice) => Number(choice.value));
    const texts = [one, other].map((index) => this.#textAt(index, window));
    const drawn = JSON.stringify([one, other, texts.map((text) => text.length)]);
    if (drawn === this.#drawn) return false;
    if (!isDue && nowMs - this.#drawnMs < EVERY_MS) return true;
    [this.#drawn, this.#drawnMs] = [drawn, nowMs];
    this.#show([one, other], texts);
    return false;
  }

  // An answer at the end of a window, from its position 0.
  #textAt(index, window) {
    const answer = this.#record.answers[index];
    const [length] = this.#record.lengthsAt(index, window);
    return answer.text.slice(Math.min(answer.offsetAt(0), length), length);
  }

  #show(members, [one, other]) {
    const shared = sharedLength(one, other);
    const { parts, isAll } = difference(one.slice(shared), other.slice(shared));
    const bytes = new TextEncoder().encode(one.slice(0, shared)).length;
    const parted = shared < Math.min(one.length, other.length);
    setText(byId("compare-note"), [sentence(bytes, parted), isAll ? "" : "The ends differ too much and were not compared."].join(" "));
    const before = one.slice(Math.max(0, shared - BEFORE_LETTERS), shared);
    const start = element("span", "before", shared > BEFORE_LETTERS ? `…${before}` : before);
    byId("compare-sides").replaceChildren(
      ...["one", "other"].map((side, index) => {
        const text = element("p", "text", start.cloneNode(true));
        for (const part of parts) {
          if (part.kind === "same") text.append(part.text);
          else if (part.kind === side) text.append(element("mark", "", part.text));
        }
        const heading = element("h4", "", shapeIcon(members[index]), ` ${this.#record.columns.names[members[index]]}`);
        const column = element("div", "side", heading, text);
        column.style.setProperty("--colour", `var(${colourNameOf(members[index])})`);
        return column;
      }),
    );
  }
}

function sentence(bytes, parted) {
  if (!parted && bytes === 0) return "Nothing to compare yet.";
  if (!parted) return `The first ${bytes} bytes are the same: the answers have not parted.`;
  if (bytes === 0) return "The answers part at the first byte. Text of only one answer is marked.";
  return `The first ${bytes} bytes are the same, then the answers part. Text of only one answer is marked.`;
}
