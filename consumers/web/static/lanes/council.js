// The answer that the members write together, above their own lanes. Each word is shaded by how contested it was.

import { byId, setText } from "../elements.js";
import { CopyButton } from "./copy.js";
import { contestClass } from "./shades.js";
import { GrowingText } from "./text.js";

const LABEL = "The council's answer; use the arrow keys to move through its words, and Enter for a what-if";

export class CouncilAnswer {
  #view = null;
  #record = null;
  #handlers;
  #copy = new CopyButton("Copy the council's answer", () => this.#record.agreed.text);

  // handlers: onWord(start byte, element, isByKey), onChooseWord(the same), onLeave()
  constructor(handlers) {
    this.#handlers = handlers;
    byId("together-head").append(this.#copy.element);
  }

  // Begins another session. The members' own lanes are folded if there is an answer of the council.
  begin(record, change) {
    this.#view?.close();
    this.#view?.element.remove();
    this.#record = record;
    this.#view = null;
    const isTogether = record.agreed !== null;
    byId("together").hidden = !isTogether;
    byId("own-summary").hidden = !isTogether;
    byId("own").open = !isTogether;
    byId("given-legend").hidden = !isTogether && record.prefixBytes === 0;
    // All lanes have the same text.
    byId("compare-button").classList.toggle("absent", isTogether);
    if (!isTogether) return;
    const { onWord, onChooseWord, onLeave } = this.#handlers;
    this.#view = new GrowingText(record.agreed, LABEL, {
      onToken: onWord, onChoose: onChooseWord, onLeave, shadeOf: contestClass,
    });
    if (change) this.#view.showChange(change);
    byId("together").append(this.#view.element);
    setText(byId("contested"), "");
  }

  // Draws the answer at the end of a window.
  draw(window, withNumbers) {
    if (!this.#view) return;
    const { agreed } = this.#record;
    const bytes = this.#record.agreedAt(window);
    this.#view.draw(agreed.offsetAt(bytes));
    if (withNumbers) setText(byId("contested"), contestedSentence(agreed, bytes));
  }

  // Draws the text so far, before the first frame.
  drawText() {
    this.#view?.draw(this.#record.agreed.text.length);
  }
}

// How often the drafts parted, and how much of the text that was.
export function contestedSentence(agreed, bytes) {
  const { partings, share } = agreed.contestedBefore(bytes);
  if (partings === 0) return bytes > 0 ? "The drafts have not parted." : "";
  const percent = share < 0.01 ? "under 1 %" : `${Math.round(100 * share)} %`;
  return `${partings} ${partings === 1 ? "parting" : "partings"}; ${percent} of the text was contested`;
}
