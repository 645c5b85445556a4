// The braid: one column of light, a pixel wide, from the drive at one moment.
//
// Each member is a strand, and a source of waves across the column: amplitude the root of its light, all in step. What is
// seen between the strands is their sum, squared. Where strands lie together every crest meets a crest, and there is one
// bright cord; where they lie apart, their crests and troughs meet in turn: bright and dark fringes.
//
//    y = 0  ░░▒▒▓▓██▓▓ strand 0 ▓▓▒▒  |sum a_m(y) e^(i k |y - y_m|)|^2
//           ░ dark fringe
//           ▒▒▓▓ cord: the wave
//           ░ dark fringe
//    height ░░▒▒▓▓██▓▓ strand 1 ▓▓▒▒
//
// Nothing here knows a canvas: it fills an array of RGBA.

// All lengths are shares of the height.
const FRINGE = 0.085;
const HALO = 0.19;
const FAN = 0.38;
const TWIST = 0.06;
const THINNEST = 0.004;
const WIDEST = 0.034;
const CORD_THINNEST = 0.004;
const CORD_WIDEST = 0.026;
// Towards the edges all light fades.
const EDGE = 0.1;
const RING = 0.17;
const RING_HARMONICS = 3;
// A line thinner than a pixel would break into steps.
const THINNEST_PX = 1.1;
// Light past so many half widths of a line cannot be seen.
const REACH = 2.6;
const STEPS_A_PIXEL = 4;

// For columns of so many pixels.
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
    const share = (at) => at / STEPS_A_PIXEL / height;
    const length = height * STEPS_A_PIXEL * 2;
    this.#envelope = table((at) => Math.exp(-share(at) / HALO), length);
    this.#cosine = table((at) => Math.cos((2 * Math.PI * share(at)) / FRINGE), length);
    this.#sine = table((at) => Math.sin((2 * Math.PI * share(at)) / FRINGE), length);
    this.#edge = table((y) => {
      const inside = Math.min(1, Math.min(y + 0.5, height - y - 0.5) / (EDGE * height));
      return inside * inside * (3 - 2 * inside);
    }, height);
  }

  // The heights of the strands, in pixels from the top, written into `into`.
  strands(drive, isCalm, into) {
    const count = drive.light.length;
    for (let index = 0; index < count; index += 1) {
      const place = count > 1 ? (2 * index) / (count - 1) - 1 : 0;
      const twist = isCalm ? 0 : Math.sin(2 * Math.PI * (drive.turn + index / count)) * TWIST * (1 - 0.8 * drive.spread);
      into[index] = this.#height * (0.5 + place * FAN * drive.spread + twist);
    }
    return into;
  }

  // Writes one column into `pixels`, RGBA, at x of so wide a picture. Colours are [r, g, b]; `isCalm`: strands alone, with
  // no interference and nothing that winds or rings.
  column(pixels, width, x, drive, colours, isCalm, heights) {
    this.strands(drive, isCalm, heights);
    const order = this.#fromBehind(drive);
    const inFront = order.filter((index) => depth(drive, index) < 0).length;
    const ink = this.#ink;
    for (let y = 0; y < this.#height; y += 1) {
      ink.clear();
      this.#field(ink, y, drive, colours.members, heights, isCalm ? 0 : drive.measured);
      for (let place = 0; place <= order.length; place += 1) {
        if (place === inFront) this.#cord(ink, y, drive, colours);
        if (place < order.length) this.#strand(ink, y - heights[order[place]], drive, order[place], colours);
      }
      if (drive.ring > 0.01 && !isCalm) ink.lay(colours.gold, this.#ring(y, drive));
      ink.put(pixels, (y * width + x) * 4, this.#edge[y]);
    }
  }

  // The members in the order in which their strands are drawn: those that wind behind the cord first.
  #fromBehind(drive) {
    const order = this.#order;
    if (order.length !== drive.light.length) order.splice(0, order.length, ...drive.light.keys());
    return order.sort((one, other) => depth(drive, one) - depth(drive, other));
  }

  // What is seen between the strands.
  #field(ink, y, drive, colours, heights, measured) {
    let [real, imaginary, alone, red, green, blue] = [0, 0, 0, 0, 0, 0];
    for (let index = 0; index < heights.length; index += 1) {
      const at = (Math.abs(y - heights[index]) * STEPS_A_PIXEL) | 0;
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
    // The core of a strand with much energy glows.
    if (light > 0.3) ink.lay(colours.cord, Math.exp(-9 * from * from) * drive.present[index] * 0.5 * (light - 0.3));
  }

  // The ensemble's own, in the middle: as bright as its wave and as the members are together.
  #cord(ink, y, drive, colours) {
    const together = (1 - drive.spread) * drive.measured;
    const half = Math.max(THINNEST_PX, this.#height * (CORD_THINNEST + CORD_WIDEST * drive.cord * (0.2 + 0.8 * together)));
    const from = Math.abs(y - this.#height / 2) / half;
    if (from > REACH) return;
    const light = Math.exp(-from * from) * drive.cord * (0.16 + 0.84 * together);
    ink.lay(colours.cord, light * (1 - drive.ring));
    ink.lay(colours.gold, light * drive.ring);
  }

  // A string that rings: its harmonics, each fainter than the one before.
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

// Strands wind around the cord: above 0 in front of it.
function depth(drive, index) {
  return Math.cos(2 * Math.PI * (drive.turn + index / drive.light.length));
}

// A pixel while light is laid on it, each over what was there before.
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

  put(pixels, place, edge) {
    const share = this.cover > 0 ? 1 / this.cover : 0;
    pixels[place] = this.red * share;
    pixels[place + 1] = this.green * share;
    pixels[place + 2] = this.blue * share;
    pixels[place + 3] = this.cover * edge * 255;
  }
}
