// The window or token under the pointer, on the stage or in a text, and its evidence.

import { TokenEvidence } from "../council/tokens.js";
import { byId } from "../elements.js";
import { Evidence, tokenEvidence, visible } from "./evidence.js";

export class Pointing {
  #evidence;
  #announcer;
  #onChange;
  #onLeave;
  #record = null;
  #tokens = null;

  // onChange() when the page must be drawn again, onLeave() when the pointer is on nothing.
  constructor(announcer, onChange, onLeave) {
    [this.#announcer, this.#onChange, this.#onLeave] = [announcer, onChange, onLeave];
    this.#evidence = new Evidence(byId("evidence"), () => {
      this.#onLeave();
      this.#pin(false);
    });
    byId("pin").addEventListener("click", () => this.#pin(!this.#evidence.isPinned));
    // A touch on another element ends the pointing.
    addEventListener("pointerdown", (event) => {
      if (!event.target.closest("canvas, .token, .evidence")) this.leave();
    });
  }

  // Begins another session; null while it is unknown.
  begin(record) {
    this.#tokens?.leave();
    [this.#record, this.#tokens] = [record, record && new TokenEvidence(record.session.session)];
    this.leave();
  }

  atWindow(track, window, event) {
    if (!this.#record) return;
    this.#evidence.pointAtWindow(track, this.#record.columns.frame(window), [event.clientX, event.clientY]);
    this.#onChange();
  }

  atToken(index, start, node, isByKey) {
    const answer = this.#record?.answers[index];
    const found = answer ? answer.tokenAt(start) : -1;
    if (found < 0) return;
    const token = answer.tokens[found];
    const text = answer.text.slice(answer.offsetAt(token.start), answer.offsetAt(token.end));
    const { left, top } = node.getBoundingClientRect();
    const origin = this.#record.session.origin_ns;
    const show = (fetched) => {
      const evidence = tokenEvidence(text, token, fetched, origin);
      this.#evidence.pointAtToken(evidence, [left, top]);
      if (isByKey) this.#announcer.announce(spoken(text, evidence));
    };
    show(null);
    this.#tokens.find(index, token, answer.tokens[found - 1], show);
  }

  leave() {
    this.#tokens?.leave();
    this.#evidence.leave();
    this.#onLeave();
    this.#onChange();
  }

  // Fetches the tokens of a range of an answer; calls onKnown with each part of it.
  async learn(index, range, onKnown) {
    const [record, tokens] = [this.#record, this.#tokens];
    try {
      for await (const { tokens: found, from, to } of tokens.range(index, range)) {
        if (record !== this.#record) return;
        record.answers[index].learn(found, from, to);
        onKnown({ from, to });
      }
    } catch {
      // The tokens stay without shading; pointing at one fetches it again.
    }
  }

  // Shows the shown window's numbers in a pinned card.
  follow(frame) {
    this.#evidence.follow(frame);
  }

  #pin(isPinned) {
    byId("pin").setAttribute("aria-pressed", String(isPinned));
    this.#evidence.pin(isPinned);
    this.#onChange();
  }
}

function spoken(text, { rows, pieces }) {
  const others = pieces?.slice(0, 3).map((piece) => `${visible(piece.text)} ${(100 * piece.probability).toFixed(0)} percent`);
  return [`${text.trim() || visible(text)}: ${rows[0].value} ${rows[0].unit}`, ...(others ?? [])].join("; ");
}
