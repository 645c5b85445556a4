// The window, token or word under the pointer, on the stage or in a text, and its evidence. A click on a token or a word, or
// Enter, holds its card open, with the choices of a what-if.

import { TokenEvidence } from "../council/tokens.js";
import { byId } from "../elements.js";
import { spokenWord, wordEvidence } from "./decision.js";
import { Evidence, tokenEvidence, visible } from "./evidence.js";

export class Pointing {
  #evidence;
  #announcer;
  #whatIf;
  #onChange;
  #onLeave;
  #record = null;
  #tokens = null;
  // The text whose token is held.
  #heldIn = null;

  // onChange() when the page must be drawn again, onLeave() when the pointer is on nothing.
  constructor(announcer, whatIf, onChange, onLeave) {
    [this.#announcer, this.#whatIf, this.#onChange, this.#onLeave] = [announcer, whatIf, onChange, onLeave];
    this.#evidence = new Evidence(byId("evidence"), () => this.#close());
    byId("pin").addEventListener("click", () => this.#pin(!this.#evidence.isPinned));
    // A touch on another element ends the pointing.
    addEventListener("pointerdown", (event) => {
      if (event.target.closest("canvas, .token, .evidence")) return;
      this.#release();
      this.leave();
    });
  }

  // Begins another session; null while it is unknown.
  begin(record) {
    this.#tokens?.leave();
    [this.#record, this.#tokens] = [record, record && new TokenEvidence(record.session.session)];
    this.#release();
    this.leave();
  }

  atWindow(track, window, event) {
    if (!this.#record || this.#evidence.isHeld) return;
    this.#evidence.pointAtWindow(track, this.#record.columns.frame(window), [event.clientX, event.clientY]);
    this.#onChange();
  }

  atToken(index, start, node, isByKey) {
    if (!this.#evidence.isHeld) this.#showToken(index, start, node, isByKey);
  }

  // The word of the council's answer that begins there.
  atWord(start, node, isByKey) {
    if (!this.#evidence.isHeld) this.#showWord(start, node, isByKey);
  }

  holdToken(index, start, node, isByKey) {
    const answer = this.#record.answers[index];
    const [lead] = /^\s*/.exec(answer.text.slice(answer.offsetAt(start)));
    const say = (piece) => this.#whatIf.say({ member: index, at: start, say: piece.text });
    this.#hold({ member: index, at: start, lead }, say, node);
    this.#showToken(index, start, node, isByKey);
  }

  holdWord(start, node, isByKey) {
    const { agreed, session } = this.#record;
    const before = agreed.text.slice(0, agreed.offsetAt(start));
    const kept = before.trimEnd();
    const [at, lead] = kept ? [agreed.byteAt(kept.length), before.slice(kept.length)] : [start, ""];
    // Of the other drafts only the beginnings are known, which are no texts to continue.
    this.#hold({ member: longestAnswer(session, this.#record.answers), at, lead }, null, node);
    this.#showWord(start, node, isByKey);
  }

  // False while a card is held: it stays.
  leave() {
    if (this.#evidence.isHeld) return false;
    this.#tokens?.leave();
    this.#evidence.leave();
    this.#onLeave();
    this.#onChange();
    return true;
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
    if (!this.#evidence.isHeld) this.#evidence.follow(frame);
  }

  #showToken(index, start, node, isByKey) {
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
      // The token may never be fetched: the choices of a held card do not wait for it.
      this.#attend(isByKey && (fetched !== null || this.#evidence.isHeld), () => spoken(text, evidence));
    };
    show(null);
    this.#tokens.find(index, token, answer.tokens[found - 1], show);
  }

  #showWord(start, node, isByKey) {
    const { agreed, columns } = this.#record;
    const word = agreed.tokens[agreed.tokenAt(start)];
    const evidence = wordEvidence(agreed, word, columns.names);
    const { left, top } = node.getBoundingClientRect();
    this.#evidence.pointAtToken(evidence, [left, top]);
    this.#attend(isByKey, () => spokenWord(agreed, word, evidence));
  }

  // What a key has reached is announced; of a held card the first choice gets the focus.
  #attend(isByKey, text) {
    if (!isByKey) return;
    if (this.#evidence.isHeld) this.#evidence.focusChoices();
    else this.#announcer.announce(text());
  }

  #hold(typed, onSay, node) {
    this.#release();
    this.#heldIn = node.closest(".text");
    this.#whatIf.begin({ session: this.#record.session.session, typed });
    this.#evidence.hold({ element: this.#whatIf.element, onSay });
  }

  #release() {
    this.#heldIn = null;
    this.#evidence.release();
  }

  // The user closes the card; the focus goes back to the text.
  #close() {
    const text = this.#heldIn;
    this.#release();
    if (text) {
      text.focus({ preventScroll: true });
      this.leave();
      return;
    }
    this.#onLeave();
    this.#pin(false);
  }

  #pin(isPinned) {
    byId("pin").setAttribute("aria-pressed", String(isPinned));
    this.#evidence.pin(isPinned);
    this.#onChange();
  }
}

// The member with the longest answer, which has the whole text of the council.
function longestAnswer({ members }, answers) {
  const lengths = members.map((_, index) => answers[index].text.length);
  return lengths.indexOf(Math.max(...lengths));
}

function spoken(text, { rows, pieces }) {
  const others = pieces?.slice(0, 3).map((piece) => `${visible(piece.text)} ${(100 * piece.probability).toFixed(0)} percent`);
  return [`${text.trim() || visible(text)}: ${rows[0].value} ${rows[0].unit}`, ...(others ?? [])].join("; ");
}
