// What a person points at, on the stage or in a text, and the evidence for it.

import { TokenEvidence } from "../council/tokens.js";
import { at } from "../elements.js";
import { Evidence, tokenEvidence, visible } from "./evidence.js";

export class Pointing {
  #evidence;
  #announcer;
  #onChange;
  #onLeave;
  #record = null;
  #tokens = null;

  // onChange() where something else is to be drawn, onLeave() where nothing is pointed at any more.
  constructor(announcer, onChange, onLeave) {
    [this.#announcer, this.#onChange, this.#onLeave] = [announcer, onChange, onLeave];
    this.#evidence = new Evidence(at("evidence"), () => {
      this.#onLeave();
      this.#pin(false);
    });
    at("pin").addEventListener("click", () => this.#pin(!this.#evidence.isPinned));
    // A finger that touches something else takes back what it pointed at.
    addEventListener("pointerdown", (event) => {
      if (!event.target.closest("canvas, .token, .evidence")) this.leave();
    });
  }

  // Another session; null until it is known.
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
      const said = tokenEvidence(text, token, fetched, origin);
      this.#evidence.pointAtToken(said, [left, top]);
      if (isByKey) this.#announcer.tell(spoken(text, said));
    };
    show(null);
    this.#tokens.look(index, token, answer.tokens[found - 1], show);
  }

  leave() {
    this.#tokens?.leave();
    this.#evidence.leave();
    this.#onLeave();
    this.#onChange();
  }

  // Asks for the tokens of a part of an answer; tells of each part that has become known.
  async learn(index, range, tell) {
    const [record, tokens] = [this.#record, this.#tokens];
    try {
      for await (const { tokens: found, from, to } of tokens.range(index, range)) {
        if (record !== this.#record) return;
        record.answers[index].learn(found, from, to);
        tell({ from, to });
      }
    } catch {
      // They stay unshaded; whoever points at one asks again.
    }
  }

  // The window that is looked at, for the card that is pinned.
  follow(frame) {
    this.#evidence.follow(frame);
  }

  #pin(isPinned) {
    at("pin").setAttribute("aria-pressed", String(isPinned));
    this.#evidence.pin(isPinned);
    this.#onChange();
  }
}

function spoken(text, { rows, pieces }) {
  const others = pieces?.slice(0, 3).map((piece) => `${visible(piece.text)} ${(100 * piece.probability).toFixed(0)} percent`);
  return [`${text.trim() || visible(text)}: ${rows[0].value} ${rows[0].unit}`, ...(others ?? [])].join("; ");
}
