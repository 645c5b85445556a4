// The drive: the values that move the braid, from the frames' numbers, limited in speed against flashes.
//
//   energy of a member --> width of its strand, not limited
//                      --> its light, limited
//   agreement -----------> spread of the strands, limited: 0 at agreement 1, 1 at agreement 0
//   decisions -----------> how far each strand is from the cord, limited, where the members write one answer together
//   member runs ---------> presence of its strand, limited
//   wave ----------------> light of the cord, limited
//   resonance -----------> ring, limited
//   energies ------------> turn: strands wind around each other, faster with more energy
//
// The limit: a flash is a pair of opposite changes of luminance, each a tenth of the maximum, and more than three flashes a
// second can harm (WCAG 2.3.1). A value that changes by at most six tenths a second makes at most three such pairs.

import { WINDOWS_PER_SECOND } from "../record/windows.js";

const MOST_PER_SECOND = 0.6;
const MOST_PER_WINDOW = MOST_PER_SECOND / WINDOWS_PER_SECOND;
// The spread while nothing is compared: between together and apart.
const SPREAD_UNMEASURED = 0.55;
const TURNS_PER_SECOND = 1;
// A strand that leaves the one cord moves by at most so much in a window: a thin line in a small part of the picture, so this
// may be faster than what moves all strands and lights.
const MOST_PARTING = 0.03;
const PARTING_EASE = 0.2;
// The spread moves by so much of the remaining way in each window, so that corners become curves.
const EASE = 0.07;

export class Drive {
  spread = SPREAD_UNMEASURED;
  // How much of the interference is shown: 0 while no agreement is measured.
  measured = 0;
  cord = 0;
  ring = 0;
  turn = 0;
  #goal = SPREAD_UNMEASURED;
  // Of each member.
  light;
  width;
  present;
  // How far each strand is from the middle, in [0, 1].
  apart;
  // True if the members write one answer together.
  isCord = false;
  // How far each strand goes away from the cord before it returns; 0 once it is on its way back.
  #leaving;

  constructor(memberCount) {
    this.present = new Float64Array(memberCount).fill(1);
    this.light = new Float64Array(memberCount);
    this.width = new Float64Array(memberCount);
    this.apart = new Float64Array(memberCount).fill(SPREAD_UNMEASURED);
    this.#leaving = new Float64Array(memberCount);
  }

  // Moves by one window; agreement is NaN if it was not measured. `cord`: null, or how far each strand was driven from the
  // one cord in this window; NaN for a member that takes no part.
  step({ agreement, wave, resonance, energies, running, cord = null }) {
    const isMeasured = !Number.isNaN(agreement);
    this.isCord = cord !== null;
    if (cord) {
      this.#part(cord);
    } else {
      this.#goal = limited(this.#goal, isMeasured ? 1 - agreement : SPREAD_UNMEASURED);
      this.spread += (this.#goal - this.spread) * EASE;
      this.apart.fill(this.spread);
    }
    this.measured = limited(this.measured, isMeasured ? 1 : 0);
    this.cord = limited(this.cord, wave);
    this.ring = limited(this.ring, resonance ? 1 : 0);
    let sum = 0;
    for (let index = 0; index < energies.length; index += 1) {
      this.width[index] = energies[index];
      this.light[index] = limited(this.light[index], energies[index]);
      this.present[index] = limited(this.present[index], running[index] ? 1 : 0);
      sum += this.light[index];
    }
    this.turn = (this.turn + (TURNS_PER_SECOND * sum) / energies.length / WINDOWS_PER_SECOND) % 1;
  }

  // One cord: a strand leaves it at a decision against its member, and returns.
  #part(cord) {
    let sum = 0;
    for (let index = 0; index < cord.length; index += 1) {
      if (cord[index] > 0) this.#leaving[index] = cord[index];
      const goal = Number.isNaN(cord[index]) ? SPREAD_UNMEASURED : this.#leaving[index];
      const way = goal - this.apart[index];
      // Slower near its goal, so that corners become curves.
      const most = Math.min(MOST_PARTING, Math.abs(way) * PARTING_EASE);
      this.apart[index] += Math.sign(way) * most;
      if (this.apart[index] >= 0.85 * this.#leaving[index]) this.#leaving[index] = 0;
      sum += this.apart[index];
    }
    this.spread = limited(this.spread, sum / cord.length);
  }
}

// The value after one window on its way to the goal.
function limited(now, goal) {
  return now + Math.max(-MOST_PER_WINDOW, Math.min(MOST_PER_WINDOW, goal - now));
}
