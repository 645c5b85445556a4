// The answer that the members of a `consensus` session write together, and how it was decided.
//
//   text        T h e _ s k y _ i s _ b l u e .
//   decisions   [unanimous         ][certain .7]      in bytes; each contains how the council agreed on them
//   tokens      [The]  [sky]    [is]    [blue.]       its words, each with how contested it was

import { Answer, lastAtMost } from "./answer.js";

// A longer word, such as a sentence of Chinese, is divided where the council decided.
const LONGEST_WORD_LETTERS = 48;
// A word with the white space before it, or the beginning of one that is too long.
const WORD = new RegExp(`\\s*\\S{1,${LONGEST_WORD_LETTERS + 1}}`, "y");

// True if the drafts parted there: the members had to decide.
export const isParting = ({ kind }) => kind === "certain" || kind === "estimate";

export class Agreed extends Answer {
  // In the order of the text. With each, from the first to this one: `partings`, and the bytes that were `contested`.
  decisions = [];
  #divided = 0;

  // Adds the text and the decisions of a frame; the text is empty if it is known already.
  take({ agreed, decisions, final }) {
    this.append(agreed ?? "");
    for (const decision of decisions ?? []) this.#count(decision);
    this.#divide(final);
  }

  #count(decision) {
    const last = this.decisions.at(-1);
    const [partings, contested] = isParting(decision) ? [1, decision.end - decision.at] : [0, 0];
    this.decisions.push({
      ...decision, partings: (last?.partings ?? 0) + partings, contested: (last?.contested ?? 0) + contested,
    });
  }

  // How often the drafts parted before this byte, and the contested share of the bytes before it.
  contestedBefore(byte) {
    const last = this.decisions[lastAtMost(this.decisions, "end", byte)];
    if (!last) return { partings: 0, share: 0 };
    const bytes = last.end - this.decisions[0].at;
    return { partings: last.partings, share: bytes > 0 ? last.contested / bytes : 0 };
  }

  // The decisions of the bytes [from, to).
  decisionsIn(from, to) {
    const found = [];
    for (let at = lastAtMost(this.decisions, "end", from) + 1; this.decisions[at]?.at < to; at += 1) {
      found.push(this.decisions[at]);
    }
    return found;
  }

  // Divides the text into words, as far as they are decided and cannot grow.
  #divide(isOver) {
    const decided = isOver ? this.text.length : this.offsetAt(this.decisions.at(-1)?.end ?? 0);
    for (let end = this.#wordEnd(isOver); end > this.#divided && end <= decided; end = this.#wordEnd(isOver)) {
      const space = /^\s*/.exec(this.text.slice(this.#divided, end))[0].length;
      this.#addWord(this.byteAt(this.#divided + space), this.byteAt(end));
      this.#divided = end;
    }
  }

  // The end of the next word; -1 while it is unknown.
  #wordEnd(isOver) {
    WORD.lastIndex = this.#divided;
    const word = WORD.exec(this.text)?.[0] ?? "";
    const end = this.#divided + word.length;
    if (word.trimStart().length <= LONGEST_WORD_LETTERS) return isOver || end < this.text.length ? end : -1;
    const start = this.byteAt(this.#divided);
    const decision = this.decisions[lastAtMost(this.decisions, "end", start) + 1];
    return decision ? this.offsetAt(decision.end) : this.text.length;
  }

  #addWord(start, end) {
    const decisions = this.decisionsIn(start, end);
    const parted = decisions.filter(isParting);
    this.tokens.push({
      start, end, isParted: parted.length > 0,
      // The share of the council for other texts, in [0, 1].
      contest: Math.max(0, ...parted.map(({ share }) => 1 - (share ?? 1))),
      isAlone: decisions.some(({ kind }) => kind === "followed"),
    });
    this.version += 1;
  }
}
