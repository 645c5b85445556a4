// What moves the braid, from what the frames say: the same numbers, no faster than eyes can bear.
//
//   energy of a member --> width of its strand, as it is
//                      --> its light, limited
//   agreement -----------> spread of the strands, limited: 0 at agreement 1, 1 at agreement 0
//   whether it runs -----> whether its strand is there, limited
//   wave ----------------> light of the cord, limited
//   resonance -----------> ring, limited
//   energies ------------> turn: strands that run together wind around each other, as fast as there is energy
//
// The limit: a flash is a pair of opposed changes of luminance, each a tenth of the whole, and more than three of them a
// second can hurt (WCAG 2.3.1). What moves no faster than six tenths in a second makes no more than three such pairs.

const MOST_A_SECOND = 0.6;
const MOST_A_WINDOW = MOST_A_SECOND / 60;
// Where nothing was compared yet the strands neither meet nor part.
const SPREAD_UNMEASURED = 0.55;
const TURNS_A_SECOND = 1;
// Of the way that is left, so much a window: corners become curves.
const EASE = 0.07;

export class Drive {
  spread = SPREAD_UNMEASURED;
  // How much of the interference is shown: none where nobody measured an agreement.
  measured = 0;
  cord = 0;
  ring = 0;
  turn = 0;
  #goal = SPREAD_UNMEASURED;
  // Of each member.
  light;
  width;
  present;

  constructor(memberCount) {
    this.present = new Float64Array(memberCount).fill(1);
    this.light = new Float64Array(memberCount);
    this.width = new Float64Array(memberCount);
  }

  // One window further. `said`: {agreement, wave, resonance, energies, running}, agreement NaN where it was not measured.
  step({ agreement, wave, resonance, energies, running }) {
    const isMeasured = !Number.isNaN(agreement);
    this.#goal = limited(this.#goal, isMeasured ? 1 - agreement : SPREAD_UNMEASURED);
    this.spread += (this.#goal - this.spread) * EASE;
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
    this.turn = (this.turn + (TURNS_A_SECOND * sum) / energies.length / 60) % 1;
  }
}

// As near to the goal as one window may come.
function limited(now, goal) {
  return now + Math.max(-MOST_A_WINDOW, Math.min(MOST_A_WINDOW, goal - now));
}
