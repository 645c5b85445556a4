// The tokens' own evidence, fetched when somebody looks: the list that came with a token, and what it says of a text that
// was there before this page.

import { getTokens } from "./api.js";

// Some screens of tokens; the oldest is forgotten first.
const MOST_KEPT = 400;
// A pointer that sweeps over a text asks for nothing.
const DWELL_MS = 60;

export class TokenEvidence {
  #session;
  #kept = new Map();
  #timer = 0;
  #wanted = "";

  constructor(session) {
    this.#session = session;
  }

  // Calls back with {found, before}: the token that begins there and the one before it, if it was listed; at once where
  // they are known. Only the newest call is answered. A refusal is not told: the token's own numbers stand there already.
  look(member, token, before, tell) {
    const key = `${member} ${token.start}`;
    this.#wanted = key;
    clearTimeout(this.#timer);
    const kept = this.#kept.get(key);
    if (kept) {
      tell(kept);
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
      if (this.#wanted === key) tell(fetched);
    }, DWELL_MS);
  }

  leave() {
    this.#wanted = "";
    clearTimeout(this.#timer);
  }

  // All tokens of [from, to) bytes, some hundred at a time.
  async *range(member, { from, to }) {
    for (let at = from; at !== null && at < to; ) {
      const { tokens, next } = await getTokens(this.#session, member, at, to);
      yield { tokens, from: at, to: next ?? to };
      at = next;
    }
  }
}
