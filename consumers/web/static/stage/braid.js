// The braid: computes one column of pixels from the drive at one moment.
//
// Each member is a strand, and a source of waves across the column; its amplitude is the root of its light, and all phases
// are equal. The light between the strands is the square of the sum. Where strands lie together all crests coincide: one
// bright cord. Where they lie apart, crests and troughs alternate: bright and dark fringes.
//
//    y = 0  ░░▒▒▓▓██▓▓ strand 0 ▓▓▒▒  |sum a_m(y) e^(i k |y - y_m|)|^2
//           ░ dark fringe
//           ▒▒▓▓ cord: the wave
//           ░ dark fringe
//    height ░░▒▒▓▓██▓▓ strand 1 ▓▓▒▒
//
// This module uses no canvas: it fills an array of RGBA.

// All lengths are fractions of the height.
const FRINGE = 0.085;
const HALO = 0.19;
const FAN = 0.38;
const TWIST = 0.06;
const THINNEST = 0.004;
const WIDEST = 0.034;
const CORD_THINNEST = 0.004;
const CORD_WIDEST = 0.026;
// All light fades towards the edges.
const EDGE = 0.1;
const RING = 0.17;
const RING_HARMONICS = 3;
// A line thinner than this would show steps.
const THINNEST_PX = 1.1;
// Beyond so many half widths of a line its light is invisible.
const REACH = 2.6;
const STEPS_PER_PIXEL = 4;

// For columns of `height` pixels.
export class Braid {
  #height;
  #envelope;
  #cosine;
  #sine;
  #edge;
  #order = [];
  #ink = new Ink();

  constructor(height) {
    this.#height = height;
    const table = (value, length) => Float32Array.from({ length }, (_, at) => value(at));
    const share = (at) => at / STEPS_PER_PIXEL / height;
    const length = height * STEPS_PER_PIXEL * 2;
    this.#envelope = table((at) => Math.exp(-share(at) / HALO), length);
    this.#cosine = table((at) => Math.cos((2 * Math.PI * share(at)) / FRINGE), length);
    this.#sine = table((at) => Math.sin((2 * Math.PI * share(at)) / FRINGE), length);
    this.#edge = table((y) => {
      const inside = Math.min(1, Math.min(y + 0.5, height - y - 0.5) / (EDGE * height));
      return inside * inside * (3 - 2 * inside);
    }, height);
  }

  // Writes the positions of the strands into `into`, in pixels from the top.
  strands(drive, isCalm, into) {
    const count = drive.light.length;
    for (let index = 0; index < count; index += 1) {
      const side = drive.isCord ? cordSide(index) : count > 1 ? (2 * index) / (count - 1) - 1 : 0;
      const twist = isCalm ? 0 : Math.sin(2 * Math.PI * (drive.turn + index / count)) * TWIST * (1 - 0.8 * drive.apart[index]);
      into[index] = this.#height * (0.5 + side * FAN * drive.apart[index] + twist);
    }
    return into;
  }

  // Writes one column into `pixels`, RGBA, at x of a picture of this width. Colours are [r, g, b]; `isCalm`: strands only,
  // without interference, winding and ringing.
  column(pixels, width, x, drive, colours, isCalm, heights) {
    this.strands(drive, isCalm, heights);
    const order = this.#fromBehind(drive);
    const inFront = order.filter((index) => depth(drive, index) < 0).length;
    const ink = this.#ink;
    for (let y = 0; y < this.#height; y += 1) {
      ink.clear();
      this.#field(ink, y, drive, colours.members, heights, isCalm ? 0 : drive.measured);
      for (let drawn = 0; drawn <= order.length; drawn += 1) {
        if (drawn === inFront) this.#cord(ink, y, drive, colours);
        if (drawn < order.length) this.#strand(ink, y - heights[order[drawn]], drive, order[drawn], colours);
      }
      if (drive.ring > 0.01 && !isCalm) ink.lay(colours.gold, this.#ring(y, drive));
      ink.put(pixels, (y * width + x) * 4, this.#edge[y]);
    }
  }

  // The members in drawing order: strands behind the cord first.
  #fromBehind(drive) {
    const order = this.#order;
    if (order.length !== drive.light.length) order.splice(0, order.length, ...drive.light.keys());
    return order.sort((one, other) => depth(drive, one) - depth(drive, other));
  }

  // The light between the strands.
  #field(ink, y, drive, colours, heights, measured) {
    let [real, imaginary, alone, red, green, blue] = [0, 0, 0, 0, 0, 0];
    for (let index = 0; index < heights.length; index += 1) {
      const at = (Math.abs(y - heights[index]) * STEPS_PER_PIXEL) | 0;
      const amplitude = Math.sqrt(drive.light[index]) * this.#envelope[at];
      const power = amplitude * amplitude;
      real += amplitude * this.#cosine[at];
      imaginary += amplitude * this.#sine[at];
      alone += power;
      red += power * colours[index][0];
      green += power * colours[index][1];
      blue += power * colours[index][2];
    }
    if (alone < 1e-5) return;
    const sum = real * real + imaginary * imaginary;
    const seen = (alone + measured * (sum - alone)) / heights.length;
    ink.start(red / alone, green / alone, blue / alone, 0.78 * (1 - Math.exp(-1.1 * seen)));
  }

  #strand(ink, distance, drive, index, colours) {
    const half = Math.max(THINNEST_PX, this.#height * (THINNEST + WIDEST * drive.width[index]));
    const from = Math.abs(distance) / half;
    if (from > REACH) return;
    const light = drive.light[index];
    ink.lay(colours.members[index], Math.exp(-from * from) * drive.present[index] * (0.4 + 0.6 * light));
    // The core of a strand with high energy glows.
    if (light > 0.3) ink.lay(colours.cord, Math.exp(-9 * from * from) * drive.present[index] * 0.5 * (light - 0.3));
  }

  // The ensemble's cord, in the middle: its brightness is the wave, and how close together the strands are.
  #cord(ink, y, drive, colours) {
    const together = (1 - drive.spread) * drive.measured;
    const half = Math.max(THINNEST_PX, this.#height * (CORD_THINNEST + CORD_WIDEST * drive.cord * (0.2 + 0.8 * together)));
    const from = Math.abs(y - this.#height / 2) / half;
    if (from > REACH) return;
    const light = Math.exp(-from * from) * drive.cord * (0.16 + 0.84 * together);
    ink.lay(colours.cord, light * (1 - drive.ring));
    ink.lay(colours.gold, light * drive.ring);
  }

  // The harmonics of a ringing string, each fainter than the previous one.
  #ring(y, drive) {
    const distance = Math.abs(y - this.#height / 2) / this.#height;
    let light = 0;
    for (let harmonic = 1; harmonic <= RING_HARMONICS; harmonic += 1) {
      const swing = Math.abs(Math.sin(2 * Math.PI * harmonic * drive.turn)) * RING * (0.6 + 0.2 * harmonic);
      const from = Math.abs(distance - swing) / (0.004 + 0.003 * harmonic);
      if (from < REACH) light = Math.max(light, (Math.exp(-from * from) * 0.8) / harmonic);
    }
    return light * drive.ring;
  }
}

// The side on which a strand leaves the one cord: above or below it in turns, so that each one is seen to leave.
function cordSide(index) {
  return (index % 2 === 0 ? -1 : 1) * (1 - 0.25 * Math.floor(index / 2));
}

// The depth of a winding strand: above 0 it is in front of the cord.
function depth(drive, index) {
  return Math.cos(2 * Math.PI * (drive.turn + index / drive.light.length));
}

// One pixel; each light is blended over the previous ones.
class Ink {
  clear() {
    [this.red, this.green, this.blue, this.cover] = [0, 0, 0, 0];
  }

  start(red, green, blue, cover) {
    [this.red, this.green, this.blue, this.cover] = [red * cover, green * cover, blue * cover, cover];
  }

  lay(colour, cover) {
    const rest = 1 - cover;
    this.red = this.red * rest + colour[0] * cover;
    this.green = this.green * rest + colour[1] * cover;
    this.blue = this.blue * rest + colour[2] * cover;
    this.cover = this.cover * rest + cover;
  }

  put(pixels, at, edge) {
    const share = this.cover > 0 ? 1 / this.cover : 0;
    pixels[at] = this.red * share;
    pixels[at + 1] = this.green * share;
    pixels[at + 2] = this.blue * share;
    pixels[at + 3] = this.cover * edge * 255;
  }
}
