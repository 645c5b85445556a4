// The stage: the braid and the plots with one time axis, and pointing at them.

import { Colours } from "./colours.js";
import { Drives } from "./drives.js";
import { Hero } from "./hero.js";
import { diversityPlot, disagreementPlot, energyPlot, lagPlot } from "./plots.js";

// Repainting the past is divided into slices so that the page stays responsive: so long for each picture, and longer with
// reduced motion, where fewer drawings have more to paint.
const PAINT_MS = 6;
const CALM_PAINT_MS = 40;
// So many windows before a held one stay visible.
const WINDOWS_BEFORE = 90;

export class Stage {
  #tracks;
  #record = null;
  #drives = null;
  #colours = null;
  #pointed = -1;
  #isCalm = false;
  // The window at the right edge.
  #end = -1;

  // onPoint(name of the track, window, event) when the pointer is on a window, onLeave() when it leaves, onPick(window) on a
  // click of a mouse: a tap only points.
  constructor(canvases, { onPoint, onLeave, onPick }) {
    this.#tracks = {
      braid: new Hero(canvases.braid),
      energy: energyPlot(canvases.energy),
      diversity: diversityPlot(canvases.diversity),
      disagreement: disagreementPlot(canvases.disagreement),
      lag: lagPlot(canvases.lag),
    };
    for (const [name, track] of Object.entries(this.#tracks)) {
      const point = (event) => {
        const window = this.#windowUnder(track, event);
        if (window === this.#pointed) return;
        this.#pointed = window;
        if (window < 0) onLeave();
        else onPoint(name, window, event);
      };
      const leave = () => {
        this.#pointed = -1;
        onLeave();
      };
      track.element.addEventListener("pointermove", point);
      track.element.addEventListener("pointerdown", point);
      track.element.addEventListener("click", (event) => {
        const window = this.#windowUnder(track, event);
        if (event.pointerType === "mouse" && window >= 0) onPick(window);
      });
      track.element.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
    }
  }

  #windowUnder(track, event) {
    if (!this.#record) return -1;
    const window = track.windowAt(event.offsetX);
    return window < this.#record.columns.first ? -1 : this.#record.columns.nearest(window);
  }

  // Begins another session.
  begin(record) {
    this.#record = record;
    const count = record.columns.names.length;
    this.#drives = new Drives(count);
    this.#pointed = -1;
    this.#end = -1;
    this.#tracks.braid.begin(count);
    this.repaint();
  }

  add(frame) {
    this.#drives.add(frame);
  }

  // Reads the colours again and repaints everything.
  repaint() {
    if (!this.#record) return;
    this.#colours = new Colours(this.#record.columns.names.length);
    for (const track of Object.values(this.#tracks)) track.forget();
  }

  // The pointer is on nothing.
  leave() {
    this.#pointed = -1;
  }

  // Draws everything at this window: at the right edge while live, and anywhere visible while held. `isCalm`: without
  // interference, winding and ringing. True if painting is not finished.
  draw(window, isHeld, isCalm) {
    if (!this.#record) return false;
    if (isCalm !== this.#isCalm) {
      this.#isCalm = isCalm;
      this.repaint();
    }
    const { columns } = this.#record;
    this.#end = isHeld ? this.#endAround(window, columns.last) : window;
    const view = {
      columns, drives: this.#drives, colours: this.#colours, first: columns.first, end: this.#end, isCalm,
      held: isHeld ? window : -1, pointed: this.#pointed, windows: 1,
    };
    let isUnfinished = false;
    // The braid first: the plots show as much time as it does, or more.
    for (const track of Object.values(this.#tracks)) {
      if (track.width === 0) continue;
      const untilMs = performance.now() + (isCalm ? CALM_PAINT_MS : PAINT_MS);
      isUnfinished = track.draw(view, untilMs) || isUnfinished;
    }
    return isUnfinished;
  }

  // The right edge does not move while the held window is visible.
  #endAround(window, last) {
    const visible = this.#tracks.braid.windows;
    const oldest = Math.max(this.#record.columns.first, this.#end - visible + 1);
    const isVisible = window <= this.#end && window >= oldest;
    if (isVisible && (window - WINDOWS_BEFORE >= oldest || oldest === this.#record.columns.first)) return this.#end;
    return Math.min(last, window + Math.round(visible / 2));
  }
}
