// The drive at every received window, as columns, so that every window can be drawn again unchanged.

import { isParting } from "../record/agreed.js";
import { KEPT_WINDOWS } from "../record/columns.js";
import { ended, takesPart } from "../record/states.js";
import { Drive } from "./drive.js";

const SHARED = ["spread", "measured", "cord", "ring", "turn"];
const EACH = ["light", "width", "present", "apart"];
// How far a strand leaves the one cord at a decision against its member: from the least to the most, by how contested it was.
const LEAST_PARTING = 0.1;
const MOST_PARTING = 0.5;

export class Drives {
  #drive;
  #shared = Object.fromEntries(SHARED.map((name) => [name, new Float32Array(KEPT_WINDOWS)]));
  #each;
  #last = -1;
  #memberCount;

  constructor(memberCount) {
    this.#memberCount = memberCount;
    this.#drive = new Drive(memberCount);
    this.#each = Object.fromEntries(EACH.map((name) => [name, new Float32Array(KEPT_WINDOWS * memberCount)]));
  }

  // Adds a frame, for its window and for missing windows before it.
  add(frame) {
    const values = {
      agreement: frame.agreement ?? NaN,
      wave: frame.wave,
      resonance: frame.resonance,
      energies: frame.members.map((member) => member.energy),
      running: frame.members.map(({ state }) => !ended(state)),
    };
    // Decisions are of the frame's own window, also if it is the first after some that are missing.
    const before = frame.decisions ? cordOf(frame.members, []) : null;
    const now = frame.decisions ? cordOf(frame.members, frame.decisions) : null;
    const first = this.#last < 0 ? frame.window_index : this.#last + 1;
    for (let at = Math.max(first, frame.window_index - KEPT_WINDOWS + 1); at <= frame.window_index; at += 1) {
      this.#drive.step({ ...values, cord: at < frame.window_index ? before : now });
      this.#keep(at % KEPT_WINDOWS);
    }
    this.#last = frame.window_index;
  }

  #keep(slot) {
    for (const name of SHARED) this.#shared[name][slot] = this.#drive[name];
    for (const name of EACH) this.#each[name].set(this.#drive[name], slot * this.#memberCount);
  }

  // Writes the drive between two windows into `into`, a Drive; `share` is the fraction of the way from the previous window.
  between(window, share, into) {
    const to = window % KEPT_WINDOWS;
    const from = window > 0 ? (window - 1) % KEPT_WINDOWS : to;
    into.isCord = this.#drive.isCord;
    const mixed = (column, a, b) => column[a] + (column[b] - column[a]) * share;
    for (const name of SHARED) into[name] = mixed(this.#shared[name], from, to);
    const turn = this.#shared.turn[to];
    if (turn < this.#shared.turn[from]) into.turn = (this.#shared.turn[from] * (1 - share) + (turn + 1) * share) % 1;
    for (const name of EACH) {
      for (let index = 0; index < this.#memberCount; index += 1) {
        into[name][index] = mixed(this.#each[name], from * this.#memberCount + index, to * this.#memberCount + index);
      }
    }
  }
}

// How far each strand is driven from the cord by these decisions; NaN for a member that takes no part.
function cordOf(members, decisions) {
  const cord = members.map(({ state }) => (takesPart(state) ? 0 : NaN));
  for (const { share, against } of decisions.filter(isParting)) {
    const far = LEAST_PARTING + (MOST_PARTING - LEAST_PARTING) * (1 - (share ?? 1));
    for (const member of against) cord[member] = Math.max(cord[member] || 0, far);
  }
  return cord;
}
