// The strip: the energies of up to 20 seconds, one point a window. It fills from the left, then moves on.

import { colourNameOf, shapeOf } from "./marks.js";

const WINDOWS = 1200;
const WINDOWS_A_SECOND = 60;
const SECONDS_A_TICK = 5;
// A shape on each line every so many windows: it travels with the line, where a dash would crawl along it.
const SHAPE_EVERY = 200;
const SHAPE_PX = 4;
const PAD = { top: 12, right: 34, bottom: 22, left: 26 };
const LABEL_PX = 15;

export class Strip {
  #canvas;
  #draw;
  #ensemble = new Float32Array(WINDOWS);
  #members = [];
  #first = 0;
  #last = -1;
  #colours = null;
  #plot = null;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#draw = canvas.getContext("2d");
  }

  // A new session of so many members.
  show(memberCount) {
    this.#members = Array.from({ length: memberCount }, () => new Float32Array(WINDOWS));
    this.#last = -1;
    this.#colours = null;
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
    this.#fit();
    this.#colours ??= this.#readColours();
    this.#drawGrid();
    if (this.#last < 0) return;
    this.#members.forEach((series, index) => this.#drawLine(series, this.#colours.members[index], 1.5));
    this.#drawLine(this.#ensemble, this.#colours.ink, 2.5);
    this.#members.forEach((series, index) => this.#drawShapes(series, index));
    this.#drawLabels();
  }

  #fit() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.#canvas.width !== across || this.#canvas.height !== down) {
      this.#canvas.width = across;
      this.#canvas.height = down;
    }
    this.#draw.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#draw.clearRect(0, 0, width, height);
    this.#plot = { left: PAD.left, right: width - PAD.right, top: PAD.top, bottom: height - PAD.bottom };
  }

  #readColours() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    return {
      ink: colour("--ink"),
      quiet: colour("--quiet"),
      line: colour("--line"),
      members: this.#members.map((_, index) => colour(colourNameOf(index))),
      font: `12px ${colour("--sans")}`,
    };
  }

  get #oldest() {
    return Math.max(this.#first, this.#last - WINDOWS + 1);
  }

  #x(windowIndex) {
    return this.#plot.left + ((windowIndex - this.#oldest) / (WINDOWS - 1)) * (this.#plot.right - this.#plot.left);
  }

  #y(energy) {
    return this.#plot.bottom - energy * (this.#plot.bottom - this.#plot.top);
  }

  #drawGrid() {
    const [draw, plot] = [this.#draw, this.#plot];
    draw.lineWidth = 1;
    draw.strokeStyle = this.#colours.line;
    draw.fillStyle = this.#colours.quiet;
    draw.font = this.#colours.font;
    draw.textBaseline = "middle";
    draw.textAlign = "right";
    for (const energy of [0, 0.5, 1]) {
      const y = Math.round(this.#y(energy)) + 0.5;
      draw.beginPath();
      draw.moveTo(plot.left, y);
      draw.lineTo(plot.right, y);
      draw.stroke();
      draw.fillText(energy === 0.5 ? ".5" : String(energy), plot.left - 8, y);
    }
    this.#drawSeconds();
  }

  #drawSeconds() {
    const draw = this.#draw;
    const every = SECONDS_A_TICK * WINDOWS_A_SECOND;
    draw.textBaseline = "alphabetic";
    draw.textAlign = "center";
    const newest = this.#oldest + WINDOWS;
    for (let at = Math.ceil(this.#oldest / every) * every; at <= newest; at += every) {
      draw.fillText(`${at / WINDOWS_A_SECOND} s`, this.#x(at), this.#plot.bottom + 17);
    }
  }

  #trace(series) {
    // More points than pixels cost time and show nothing.
    const step = Math.max(1, Math.floor(WINDOWS / (this.#plot.right - this.#plot.left)));
    this.#draw.beginPath();
    for (let at = Math.ceil(this.#oldest / step) * step; at < this.#last; at += step) {
      this.#draw.lineTo(this.#x(at), this.#y(series[at % WINDOWS]));
    }
    this.#draw.lineTo(this.#x(this.#last), this.#y(series[this.#last % WINDOWS]));
  }

  #drawLine(series, colour, width) {
    this.#trace(series);
    this.#draw.strokeStyle = colour;
    this.#draw.lineWidth = width;
    this.#draw.lineJoin = "round";
    this.#draw.stroke();
  }

  #drawShapes(series, index) {
    // The lines take turns, so that shapes of lines that run together stand beside each other.
    const offset = Math.round((index * SHAPE_EVERY) / this.#members.length);
    const path = new Path2D(shapeOf(index));
    this.#draw.fillStyle = this.#colours.members[index];
    for (let at = Math.ceil((this.#oldest - offset) / SHAPE_EVERY) * SHAPE_EVERY + offset; at < this.#last; at += SHAPE_EVERY) {
      this.#drawShape(path, this.#x(at), this.#y(series[at % WINDOWS]));
    }
  }

  #drawShape(path, x, y) {
    this.#draw.save();
    this.#draw.translate(x, y);
    this.#draw.scale(SHAPE_PX, SHAPE_PX);
    this.#draw.fill(path);
    this.#draw.restore();
  }

  // At the head of each line its name; names that would cover each other move apart.
  #drawLabels() {
    const draw = this.#draw;
    const place = this.#last % WINDOWS;
    const labels = this.#members.map((series, index) => ({ index, y: this.#y(series[place]) }));
    labels.push({ index: -1, y: this.#y(this.#ensemble[place]) });
    labels.sort((one, other) => other.y - one.y);
    let limit = this.#plot.bottom;
    for (const label of labels) {
      label.y = Math.min(label.y, limit);
      limit = label.y - LABEL_PX;
    }
    const overflow = Math.max(0, PAD.top / 2 - labels.at(-1).y);
    const x = this.#x(this.#last) + 10;
    draw.textAlign = "left";
    draw.textBaseline = "middle";
    for (const { index, y } of labels) {
      const isEnsemble = index < 0;
      draw.font = isEnsemble ? `600 ${this.#colours.font}` : this.#colours.font;
      draw.fillStyle = isEnsemble ? this.#colours.ink : this.#colours.members[index];
      if (!isEnsemble) this.#drawShape(new Path2D(shapeOf(index)), x + 3, y + overflow);
      draw.fillStyle = this.#colours.ink;
      draw.fillText(isEnsemble ? "E" : String(index + 1), isEnsemble ? x : x + 11, y + overflow + 0.5);
    }
  }
}
