// A track: one canvas of the stage, a film with labels that do not move.

import { Film } from "./film.js";

// A finer picture is not visible, and three pixels per CSS pixel cost twice as much as two.
const MOST_PIXEL_RATIO = 2;

export class Track {
  #canvas;
  #brush;
  #film = new Film();
  #ratio = 1;
  #end = 0;

  // paint(brush, x, width, from, to, view, height): see Film.draw. over(brush, view, track) draws on top, in CSS pixels.
  // `head`: the space at the right for labels, in CSS pixels.
  constructor(canvas, { paint, over, head = 44 }) {
    this.#canvas = canvas;
    this.#brush = canvas.getContext("2d");
    Object.assign(this, { paint, over, head });
  }

  // The number of visible windows.
  get windows() {
    return this.#film.windows;
  }

  get width() {
    return this.#canvas.clientWidth;
  }

  get height() {
    return this.#canvas.clientHeight;
  }

  get element() {
    return this.#canvas;
  }

  forget() {
    this.#film.forget();
  }

  // The end of a window, in CSS pixels from the left.
  x(window) {
    return this.width - this.head - this.#film.fromRight(window, this.#end) / this.#ratio;
  }

  // The window at so many CSS pixels from the left.
  windowAt(x) {
    return this.#film.windowAt(Math.max(0, (this.width - this.head - x) * this.#ratio), this.#end);
  }

  get oldest() {
    return Math.max(0, this.#film.oldest(this.#end));
  }

  // True if time ran out before all was painted.
  draw(view, untilMs) {
    this.#fit(view.windows);
    this.#end = view.end;
    const brush = this.#brush;
    brush.setTransform(1, 0, 0, 1, 0, 0);
    brush.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    if (view.end < 0) return false;
    const right = this.#canvas.width - Math.round(this.head * this.#ratio);
    const paint = (ring, x, width, from, to) => this.paint(ring, x, width, from, to, view, this.#film.height, this.#ratio);
    const isUnfinished = this.#film.draw(brush, right, view.first, view.end, paint, untilMs);
    brush.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0);
    this.over(brush, view, this);
    if (view.held >= 0) this.#drawHeld(brush, view);
    return isUnfinished;
  }

  // A line at the held window; later windows are dimmed.
  #drawHeld(brush, { held, end, colours }) {
    const x = Math.round(this.x(held));
    brush.globalCompositeOperation = "destination-out";
    brush.globalAlpha = 0.6;
    if (held < end) brush.fillRect(x, 0, this.width - this.head - x, this.height);
    brush.globalCompositeOperation = "source-over";
    brush.globalAlpha = 1;
    brush.fillStyle = colours.ink;
    brush.fillRect(x - 1, 0, 2, this.height);
  }

  #fit(windows) {
    this.#ratio = Math.min(MOST_PIXEL_RATIO, window.devicePixelRatio || 1);
    const [width, height] = [Math.round(this.width * this.#ratio), Math.round(this.height * this.#ratio)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
    }
    this.#film.fit(Math.max(1, Math.round((this.width - this.head) * this.#ratio)), height, windows);
  }
}
