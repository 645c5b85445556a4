// The evidence of single tokens, fetched on demand: the alternatives that came with a token, and the tokens of text that is
// older than this page.

import { getTokens } from "./api.js";

// Some screens of tokens; the oldest is dropped first.
const MOST_KEPT = 400;
// A pointer that only crosses a text fetches nothing.
const DWELL_MS = 60;

export class TokenEvidence {
  #session;
  #kept = new Map();
  #timer = 0;
  #wanted = "";

  constructor(session) {
    this.#session = session;
  }

  // Calls onFound({found, before}) with the token that begins there and the previous one, if it was returned; at once if
  // they are in the cache. Only the newest call is answered. After an error nothing is called: the token's own numbers are
  // shown already.
  find(member, token, before, onFound) {
    const key = `${member} ${token.start}`;
    this.#wanted = key;
    clearTimeout(this.#timer);
    const kept = this.#kept.get(key);
    if (kept) {
      onFound(kept);
      return;
    }
    this.#timer = setTimeout(async () => {
      const from = before?.start ?? token.start;
      const { tokens } = await getTokens(this.#session, member, from, token.end).catch(() => ({ tokens: [] }));
      const found = tokens.find((each) => each.start === token.start);
      if (!found) return;
      const fetched = { found, before: before && tokens.find((each) => each.start === before.start) };
      this.#kept.set(key, fetched);
      if (this.#kept.size > MOST_KEPT) this.#kept.delete(this.#kept.keys().next().value);
      if (this.#wanted === key) onFound(fetched);
    }, DWELL_MS);
  }

  leave() {
    this.#wanted = "";
    clearTimeout(this.#timer);
  }

  // All tokens in the bytes [from, to), a page at a time.
  async *range(member, { from, to }) {
    for (let at = from; at !== null && at < to; ) {
      const { tokens, next } = await getTokens(this.#session, member, at, to);
      yield { tokens, from: at, to: next ?? to };
      at = next;
    }
  }
}
