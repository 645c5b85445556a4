// What was received of one session, window by window: a column of numbers for each thing that a frame says.
//
//            window  …  812   813   814   815      ten minutes of them, then the oldest gives way
//   energy           …  .61   .62   .62   .64
//   jsd              …  NaN   NaN   .12   .12      NaN: not measured, or a window that never came
//   state of 0       …    3     3     3     4      a word is its place in a list
//
// The columns are made once and never grow: a page that is open for hours holds as much as one that was just loaded.

// As many as the council itself keeps of a session.
export const KEPT_WINDOWS = 36_000;
// One is what most sessions have; another comes where members end, and those that are left parted elsewhere.
const MOST_PARTINGS = 100;

const NUMBERS = [
  "energy", "wave", "diversity_index", "di_low", "di_covered", "coverage", "di_span", "span_bytes", "jsd",
  "entropy_total", "entropy_within", "coverage_mass", "agreement", "sync_lag_ms", "arrival_skew_ms", "frontier_bytes",
  "diverged_at_bytes", "late", "duplicates", "dead_letters",
];
const MEMBER_NUMBERS = ["energy", "tokens_per_s", "certainty", "position_bytes", "buffered_tokens"];
const NO_YES = [false, true];
const WORDS = {
  mode: ["free", "step", "single"],
  di_source: ["fallback", "logprobs"],
  agreement_source: [null, "logprobs", "mixed", "text"],
  compares: [null, "next", "place"],
  interference: ["neutral", "constructive", "destructive"],
  amplified: NO_YES,
  dampened: NO_YES,
  resonance: NO_YES,
  final: NO_YES,
};
const STATES = ["waiting", "loading", "thinking", "answering", "held", "detached", "finished", "dropped"];

export class Columns {
  // The windows that were received; -1 where there is none yet.
  first = -1;
  last = -1;
  // Where the members parted, as [window, byte]: once each time that a frame tells of another place; the window is -1
  // where they had parted before the first that was received.
  partings = [];

  #numbers = new Map(NUMBERS.map((name) => [name, emptyColumn()]));
  #words = new Map(Object.keys(WORDS).map((name) => [name, new Uint8Array(KEPT_WINDOWS)]));
  #members;
  // Which window each place holds: 0 for none, else its index and one.
  #held = new Uint32Array(KEPT_WINDOWS);
  // What was last compared, at each window: frames without two members to compare no longer say.
  #compared = new Uint8Array(KEPT_WINDOWS);
  #names;
  #reasons;
  #remote;

  constructor(names) {
    this.#names = names;
    this.#reasons = names.map(() => null);
    this.#remote = names.map(() => false);
    this.#members = names.map(() => ({
      ...Object.fromEntries(MEMBER_NUMBERS.map((name) => [name, emptyColumn()])),
      state: new Uint8Array(KEPT_WINDOWS),
      awaited: new Uint8Array(KEPT_WINDOWS),
      thinkingEnd: emptyColumn(),
    }));
  }

  get names() {
    return this.#names;
  }

  // Takes a frame of a later window than any before.
  add(frame) {
    const window = frame.window_index;
    const place = window % KEPT_WINDOWS;
    for (const [name, column] of this.#numbers) column[place] = frame[name] ?? NaN;
    for (const [name, column] of this.#words) column[place] = Math.max(0, WORDS[name].indexOf(frame[name]));
    this.#compared[place] = this.#words.get("compares")[place] || (this.last < 0 ? 0 : this.#compared[this.last % KEPT_WINDOWS]);
    this.#addMembers(frame, place);
    this.#held[place] = window + 1;
    const parted = frame.diverged_at_bytes;
    if (parted !== null && parted !== this.partings.at(-1)?.[1]) {
      // That of the first frame happened some time before it.
      this.partings.push([this.last < 0 ? -1 : window, parted]);
      if (this.partings.length > MOST_PARTINGS) this.partings.shift();
    }
    if (this.first < 0) this.first = window;
    this.first = Math.max(this.first, window - KEPT_WINDOWS + 1);
    this.last = window;
  }

  #addMembers(frame, place) {
    const window = frame.window_index;
    const before = this.last < 0 ? -1 : this.last % KEPT_WINDOWS;
    frame.members.forEach((said, index) => {
      const member = this.#members[index];
      for (const name of MEMBER_NUMBERS) member[name][place] = said[name] ?? NaN;
      member.state[place] = Math.max(0, STATES.indexOf(said.state));
      member.awaited[place] = said.awaited ? 1 : 0;
      // Of a session that was seen from its beginning; else it is known from the first token on.
      const first = window === 0 ? 0 : NaN;
      member.thinkingEnd[place] = before < 0 ? first : member.thinkingEnd[before];
      this.#reasons[index] = said.reason ?? this.#reasons[index];
      this.#remote[index] = said.remote;
    });
    for (const token of frame.tokens) {
      if (token.lane !== "thinking") continue;
      const ends = this.#members[token.member].thinkingEnd;
      if (Number.isNaN(ends[place])) this.#fillBefore(ends, window, token.start);
      ends[place] = token.end;
    }
  }

  // What the first token says of all windows before it.
  #fillBefore(column, window, value) {
    for (let at = Math.max(0, this.first); at < window; at += 1) column[at % KEPT_WINDOWS] = value;
  }

  // Whether this very window was received, and is still kept.
  has(window) {
    return window >= this.first && window <= this.last && this.#held[window % KEPT_WINDOWS] === window + 1;
  }

  // The newest received window at or before this one; -1 where there is none.
  nearest(window) {
    for (let at = Math.min(window, this.last); at >= Math.max(0, this.first); at -= 1) if (this.has(at)) return at;
    return -1;
  }

  number(name, window) {
    return this.has(window) ? this.#numbers.get(name)[window % KEPT_WINDOWS] : NaN;
  }

  word(name, window) {
    return WORDS[name][this.#words.get(name)[window % KEPT_WINDOWS]];
  }

  lastCompared(window) {
    return WORDS.compares[this.#compared[window % KEPT_WINDOWS]];
  }

  // Where they had parted by then, a byte; null where they had not.
  partedAt(window) {
    return this.partings.findLast(([at]) => at <= window)?.[1] ?? null;
  }

  ofMember(index, name, window) {
    return this.has(window) ? this.#members[index][name][window % KEPT_WINDOWS] : NaN;
  }

  // The frame of a received window as it came, less texts and tokens; null for a number that was not measured.
  frame(window) {
    const frame = { window_index: window };
    for (const name of NUMBERS) frame[name] = orNull(this.number(name, window));
    for (const name of Object.keys(WORDS)) frame[name] = this.word(name, window);
    frame.members = this.#names.map((name, index) => {
      const member = { name, remote: this.#remote[index] };
      for (const number of MEMBER_NUMBERS) member[number] = orNull(this.ofMember(index, number, window));
      member.state = STATES[this.#members[index].state[window % KEPT_WINDOWS]];
      member.awaited = this.#members[index].awaited[window % KEPT_WINDOWS] === 1;
      const hasEnded = member.state === "finished" || member.state === "dropped";
      member.reason = hasEnded ? this.#reasons[index] : null;
      return member;
    });
    return frame;
  }
}

function emptyColumn() {
  return new Float64Array(KEPT_WINDOWS).fill(NaN);
}

function orNull(number) {
  return Number.isNaN(number) ? null : number;
}
