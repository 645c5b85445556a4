// The received frames of one session as columns: one array for each field of a frame, indexed by window.
//
//            window  …  812   813   814   815      ten minutes of windows, then the oldest is overwritten
//   energy           …  .61   .62   .62   .64
//   jsd              …  NaN   NaN   .12   .12      NaN: not measured, or the window was not received
//   state of 0       …    3     3     3     4      a word is stored as its index in a list
//
// The columns are allocated once and never grow: a page that is open for hours uses as much memory as a new one.

import { isParting } from "./agreed.js";
import { ended, STATES } from "./states.js";

// As many windows as the council keeps of a session.
export const KEPT_WINDOWS = 36_000;
// Most sessions have one; there is another when a member ends and the remaining members parted elsewhere.
const MOST_PARTINGS = 100;

// Decisions that are kept to be drawn are at least so many windows apart, so that their shapes do not overlap; they are
// those of some minutes.
const DECIDED_EVERY = 10;
const MOST_DECIDED = 1_000;

const NUMBERS = [
  "energy", "wave", "diversity_index", "di_low", "di_covered", "coverage", "di_span", "span_bytes", "jsd",
  "entropy_total", "entropy_within", "coverage_mass", "agreement", "sync_lag_ms", "arrival_skew_ms", "frontier_bytes",
  "diverged_at_bytes", "late", "duplicates", "dead_letters", "superseded",
  "agreed_bytes",
];
const MEMBER_NUMBERS = ["energy", "tokens_per_s", "certainty", "position_bytes", "buffered_tokens"];
const NO_YES = [false, true];
const WORDS = {
  mode: ["free", "step", "single", "consensus"],
  di_source: ["fallback", "logprobs"],
  agreement_source: [null, "logprobs", "mixed", "text"],
  compares: [null, "next", "place"],
  interference: ["neutral", "constructive", "destructive"],
  amplified: NO_YES,
  dampened: NO_YES,
  resonance: NO_YES,
  final: NO_YES,
};

export class Columns {
  // The first and the last received window; -1 before there is one.
  first = -1;
  last = -1;
  // Where the members parted, as [window, byte]; a new item each time that frames report another byte. The window is -1 if
  // they had parted before the first received frame.
  partings = [];
  // Where the drafts of a council parted that writes one answer, as [window, the member whose text it took], not more than one
  // in DECIDED_EVERY windows.
  decided = [];
  // True if frames contain decisions, even if none yet.
  isTogether = false;

  #numbers = new Map(NUMBERS.map((name) => [name, emptyColumn()]));
  #words = new Map(Object.keys(WORDS).map((name) => [name, new Uint8Array(KEPT_WINDOWS)]));
  #members;
  // The window that each slot contains, plus one; 0 for an empty slot.
  #held = new Uint32Array(KEPT_WINDOWS);
  // The last kind of comparison at each window: frames with fewer than two members to compare have none.
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

  // Adds a frame with a later window than all before.
  add(frame) {
    const window = frame.window_index;
    const slot = window % KEPT_WINDOWS;
    for (const [name, column] of this.#numbers) column[slot] = frame[name] ?? NaN;
    for (const [name, column] of this.#words) column[slot] = Math.max(0, WORDS[name].indexOf(frame[name]));
    this.#compared[slot] = this.#words.get("compares")[slot] || (this.last < 0 ? 0 : this.#compared[this.last % KEPT_WINDOWS]);
    this.#addMembers(frame, slot);
    this.#held[slot] = window + 1;
    const parted = frame.diverged_at_bytes;
    if (parted !== null && parted !== this.partings.at(-1)?.[1]) {
      // In the first frame, the parting happened some time before.
      this.partings.push([this.last < 0 ? -1 : window, parted]);
      if (this.partings.length > MOST_PARTINGS) this.partings.shift();
    }
    this.#addDecisions(frame, slot);
    if (this.first < 0) this.first = window;
    this.first = Math.max(this.first, window - KEPT_WINDOWS + 1);
    this.last = window;
  }

  // Stores the end of the text that the council has agreed on, and where drafts parted.
  #addDecisions({ window_index: window, decisions }, slot) {
    this.isTogether ||= Boolean(decisions);
    const column = this.#numbers.get("agreed_bytes");
    column[slot] = decisions?.at(-1)?.end ?? (this.last < 0 ? NaN : column[this.last % KEPT_WINDOWS]);
    const parted = decisions?.find(isParting);
    if (!parted || window - (this.decided.at(-1)?.[0] ?? -Infinity) < DECIDED_EVERY) return;
    this.decided.push([window, parted.by]);
    if (this.decided.length > MOST_DECIDED) this.decided.shift();
  }

  #addMembers(frame, slot) {
    const window = frame.window_index;
    const before = this.last < 0 ? -1 : this.last % KEPT_WINDOWS;
    frame.members.forEach((shown, index) => {
      const member = this.#members[index];
      for (const name of MEMBER_NUMBERS) member[name][slot] = shown[name] ?? NaN;
      member.state[slot] = Math.max(0, STATES.indexOf(shown.state));
      member.awaited[slot] = shown.awaited ? 1 : 0;
      // 0 in a session that is followed from its beginning; else unknown until the first thinking token.
      const first = window === 0 ? 0 : NaN;
      member.thinkingEnd[slot] = before < 0 ? first : member.thinkingEnd[before];
      this.#reasons[index] = shown.reason ?? this.#reasons[index];
      this.#remote[index] = shown.remote;
    });
    for (const token of frame.tokens) {
      if (token.lane !== "thinking") continue;
      const ends = this.#members[token.member].thinkingEnd;
      if (Number.isNaN(ends[slot])) this.#fillBefore(ends, window, token.start);
      ends[slot] = token.end;
    }
  }

  // The start of the first token is the end of thinking in all windows before.
  #fillBefore(column, window, value) {
    for (let at = Math.max(0, this.first); at < window; at += 1) column[at % KEPT_WINDOWS] = value;
  }

  // True if this window was received and is still kept.
  has(window) {
    return window >= this.first && window <= this.last && this.#held[window % KEPT_WINDOWS] === window + 1;
  }

  // The newest received window at or before this one; -1 if there is none.
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

  // The byte at which the members had parted by then; null if they had not.
  partedAt(window) {
    return this.partings.findLast(([at]) => at <= window)?.[1] ?? null;
  }

  ofMember(index, name, window) {
    return this.has(window) ? this.#members[index][name][window % KEPT_WINDOWS] : NaN;
  }

  // The frame of a received window without texts and tokens; null for a number that was not measured.
  frame(window) {
    const frame = { window_index: window };
    for (const name of NUMBERS) frame[name] = orNull(this.number(name, window));
    for (const name of Object.keys(WORDS)) frame[name] = this.word(name, window);
    frame.members = this.#names.map((name, index) => {
      const member = { name, remote: this.#remote[index] };
      for (const number of MEMBER_NUMBERS) member[number] = orNull(this.ofMember(index, number, window));
      member.state = STATES[this.#members[index].state[window % KEPT_WINDOWS]];
      member.awaited = this.#members[index].awaited[window % KEPT_WINDOWS] === 1;
      member.reason = ended(member.state) ? this.#reasons[index] : null;
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
