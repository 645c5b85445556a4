// The strip: the energies of the last 20 seconds, one point a window, the newest at the right.

import { colourNameOf, shapeOf } from "./marks.js";

const WINDOWS = 1200;
// A shape on each line every so many windows: it travels with the line, where a dash would crawl along it.
const SHAPE_EVERY = 150;
const SHAPE_PX = 4;
const PAD_TOP = 10;
const PAD_BOTTOM = 20;
const PAD_LEFT = 28;
const PAD_RIGHT = 26;
const LABEL_PX = 15;

export class Strip {
  #canvas;
  #context;
  #ensemble = new Float32Array(WINDOWS);
  #members = [];
  #first = 0;
  #last = -1;
  #colours = null;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
  }

  show(memberCount) {
    this.#members = Array.from({ length: memberCount }, () => new Float32Array(WINDOWS));
    this.#last = -1;
  }

  add(frame) {
    if (this.#last < 0) this.#first = frame.window_index;
    this.#last = frame.window_index;
    const place = frame.window_index % WINDOWS;
    this.#ensemble[place] = frame.energy;
    frame.members.forEach((member, index) => (this.#members[index][place] = member.energy));
  }

  // Colours are read again: the person has changed from light to dark.
  forgetColours() {
    this.#colours = null;
  }

  draw() {
    const { width, height } = this.#fit();
    const draw = this.#context;
    const colours = (this.#colours ??= this.#readColours());
    const plot = { left: PAD_LEFT, right: width - PAD_RIGHT, top: PAD_TOP, bottom: height - PAD_BOTTOM };
    draw.clearRect(0, 0, width, height);
    this.#drawGrid(plot, colours);
    if (this.#last < 0) return;
    this.#members.forEach((series, index) => this.#drawMember(plot, series, index, colours));
    this.#drawLine(plot, this.#ensemble, colours.ink, 2.5);
    this.#drawLabels(plot, colours);
  }

  #fit() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.#canvas.width !== across || this.#canvas.height !== down) {
      this.#canvas.width = across;
      this.#canvas.height = down;
    }
    this.#context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return { width, height };
  }

  #readColours() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    return {
      ink: colour("--ink"),
      quiet: colour("--quiet"),
      line: colour("--line"),
      ground: colour("--ground"),
      members: this.#members.map((_, index) => colour(colourNameOf(index))),
      font: `12px ${colour("--sans")}`,
    };
  }

  #x(plot, windowIndex) {
    return plot.right - ((this.#last - windowIndex) / (WINDOWS - 1)) * (plot.right - plot.left);
  }

  #y(plot, energy) {
    return plot.bottom - energy * (plot.bottom - plot.top);
  }

  #oldest() {
    return Math.max(this.#first, this.#last - WINDOWS + 1);
  }

  #drawGrid(plot, colours) {
    const draw = this.#context;
    draw.lineWidth = 1;
    draw.strokeStyle = colours.line;
    draw.fillStyle = colours.quiet;
    draw.font = colours.font;
    draw.textBaseline = "middle";
    draw.textAlign = "right";
    for (const energy of [0, 0.5, 1]) {
      const y = Math.round(this.#y(plot, energy)) + 0.5;
      draw.beginPath();
      draw.moveTo(plot.left, y);
      draw.lineTo(plot.right, y);
      draw.stroke();
      draw.fillText(energy === 0.5 ? ".5" : String(energy), plot.left - 8, y);
    }
    draw.textBaseline = "alphabetic";
    draw.textAlign = "left";
    draw.fillText("20 s ago", plot.left, plot.bottom + 16);
    draw.textAlign = "right";
    draw.fillText("now", plot.right, plot.bottom + 16);
  }

  #drawLine(plot, series, colour, width) {
    const draw = this.#context;
    // More points than pixels cost time and show nothing.
    const step = Math.max(1, Math.floor(WINDOWS / (plot.right - plot.left)));
    const oldest = this.#oldest();
    draw.beginPath();
    for (let at = oldest - (oldest % step) + step; at < this.#last; at += step) {
      draw.lineTo(this.#x(plot, at), this.#y(plot, series[at % WINDOWS]));
    }
    draw.lineTo(plot.right, this.#y(plot, series[this.#last % WINDOWS]));
    draw.strokeStyle = colour;
    draw.lineWidth = width;
    draw.lineJoin = "round";
    draw.stroke();
  }

  #drawMember(plot, series, index, colours) {
    const draw = this.#context;
    const colour = colours.members[index];
    this.#drawLine(plot, series, colour, 1.5);
    const shape = new Path2D(shapeOf(index));
    const offset = Math.round((index * SHAPE_EVERY) / this.#members.length);
    const oldest = this.#oldest();
    const first = oldest + ((((offset - oldest) % SHAPE_EVERY) + SHAPE_EVERY) % SHAPE_EVERY);
    draw.fillStyle = colour;
    for (let at = first; at <= this.#last; at += SHAPE_EVERY) {
      draw.save();
      draw.translate(this.#x(plot, at), this.#y(plot, series[at % WINDOWS]));
      draw.scale(SHAPE_PX, SHAPE_PX);
      draw.fill(shape);
      draw.restore();
    }
  }

  // At the right end of each line its name; names that would cover each other move apart.
  #drawLabels(plot, colours) {
    const draw = this.#context;
    const place = this.#last % WINDOWS;
    const labels = this.#members.map((series, index) => ({ text: String(index + 1), y: this.#y(plot, series[place]) }));
    labels.push({ text: "E", y: this.#y(plot, this.#ensemble[place]), isEnsemble: true });
    labels.sort((one, other) => other.y - one.y);
    let limit = plot.bottom + LABEL_PX / 2;
    for (const label of labels) {
      label.y = Math.min(label.y, limit);
      limit = label.y - LABEL_PX;
    }
    const overflow = Math.max(0, PAD_TOP / 2 - labels.at(-1).y);
    draw.textAlign = "left";
    draw.textBaseline = "middle";
    for (const label of labels) {
      draw.font = label.isEnsemble ? `600 ${colours.font}` : colours.font;
      draw.fillStyle = label.isEnsemble ? colours.ink : colours.quiet;
      draw.fillText(label.text, plot.right + 8, label.y + overflow);
    }
  }
}
