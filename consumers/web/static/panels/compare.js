// Two members side by side, from where they parted on.

import { at, element, setText } from "../elements.js";
import { difference, sharedLength } from "../record/difference.js";
import { shapeIcon, colourNameOf } from "../stage/marks.js";

const EVERY_MS = 500;
// Of what both said, so much is shown before they part.
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
    this.#choices = [at("compare-one"), at("compare-other")];
    for (const choice of this.#choices) choice.addEventListener("change", () => this.draw(this.#window, performance.now(), true));
  }

  get isOpen() {
    return !this.#root.hidden;
  }

  begin(record) {
    this.#record = record;
    this.#drawn = "";
    if (record.columns.names.length < 2) this.open(false);
    this.#choices.forEach((choice, place) => {
      choice.replaceChildren(
        ...record.columns.names.map((model, index) => new Option(`${index + 1} ${model}`, String(index))),
      );
      choice.value = String(Math.min(place, record.columns.names.length - 1));
    });
  }

  open(isOpen) {
    this.#root.hidden = !isOpen;
    at("compare-button").setAttribute("aria-expanded", String(isOpen));
    if (isOpen) this.draw(this.#window, performance.now(), true);
  }

  // As of the end of a window. True where a text has grown since it was drawn: the next drawing is due then.
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

  // An answer as of a window, from where its bytes are counted.
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
    setText(at("compare-note"), [sentence(bytes, parted), isAll ? "" : "They differ too much to be compared to the end."].join(" "));
    const before = one.slice(Math.max(0, shared - BEFORE_LETTERS), shared);
    const start = element("span", "before", shared > BEFORE_LETTERS ? `…${before}` : before);
    at("compare-sides").replaceChildren(
      ...["one", "other"].map((side, place) => {
        const text = element("p", "text", start.cloneNode(true));
        for (const part of parts) {
          if (part.kind === "same") text.append(part.text);
          else if (part.kind === side) text.append(element("mark", "", part.text));
        }
        const heading = element("h4", "", shapeIcon(members[place]), ` ${this.#record.columns.names[members[place]]}`);
        const column = element("div", "side", heading, text);
        column.style.setProperty("--colour", `var(${colourNameOf(members[place])})`);
        return column;
      }),
    );
  }
}

function sentence(bytes, parted) {
  if (!parted) return `The same for ${bytes} bytes: they have not parted.`;
  if (bytes === 0) return "They parted at once. Marked is what only one of them says.";
  return `The same for ${bytes} bytes, then they parted. Marked is what only one of them says.`;
}
