// The way through time: live or held, the slider, the jump to where they parted.

import { at, setText } from "../elements.js";
import { Playhead } from "../record/playhead.js";

const WINDOWS_A_SECOND = 60;

export class Transport {
  #playhead = new Playhead();
  #columns = null;
  #onMove;

  // onMove() where another window is to be shown; onJump(byte) once the window where they parted is.
  constructor(onMove, onJump) {
    this.#onMove = onMove;
    at("live").addEventListener("click", () => this.#toggle());
    at("time").addEventListener("input", () => {
      // Its end is the newest window that was drawn; meanwhile there may be a newer one.
      const { value, max } = at("time");
      this.hold(Number(value) >= Number(max) ? Infinity : Number(value));
    });
    at("jump").addEventListener("click", () => {
      if (this.#hasFrames && this.#columns.partings.length > 0) onJump(this.#jump());
    });
  }

  get isLive() {
    return this.#playhead.isLive;
  }

  // Another session: its columns, once it has some.
  begin(columns) {
    this.#columns = columns;
    this.#playhead.follow();
  }

  // The window to show.
  get window() {
    return this.#playhead.window(this.#columns);
  }

  // Holds a window; the newest is followed.
  hold(window) {
    if (!this.#hasFrames) return;
    if (window >= this.#columns.last) this.#playhead.follow();
    else this.#playhead.hold(window);
    this.#onMove();
  }

  draw(window, runs) {
    const { first, last, partings } = this.#columns;
    const slider = at("time");
    [slider.min, slider.max, slider.value] = [first, last, window];
    const seconds = ((window + 1) / WINDOWS_A_SECOND).toFixed(1);
    slider.setAttribute("aria-valuetext", `${seconds} seconds${this.isLive ? ", live" : ""}`);
    const newest = ((last + 1) / WINDOWS_A_SECOND).toFixed(1);
    setText(at("time-text"), this.isLive ? `${seconds} s` : `${seconds} of ${newest} s`);
    // Its place is kept, so that nothing moves when it comes.
    at("jump").classList.toggle("absent", partings.length === 0);
    const live = at("live");
    setText(live, this.isLive ? (runs ? "Pause" : "At the end") : runs ? "Follow live" : "To the end");
    live.setAttribute("aria-disabled", String(this.isLive && !runs));
  }

  get #hasFrames() {
    return this.#columns !== null && this.#columns.last >= 0;
  }

  #toggle() {
    if (!this.#hasFrames || at("live").getAttribute("aria-disabled") === "true") return;
    if (this.isLive) this.#playhead.hold(this.#columns.last);
    else this.#playhead.follow();
    this.#onMove();
  }

  // A little later than they parted, so that the fork is in sight.
  #jump() {
    const { first, last, partings } = this.#columns;
    const [window, byte] = partings.at(-1);
    this.#playhead.hold(Math.min(last, Math.max(first, window) + WINDOWS_A_SECOND));
    return byte;
  }
}
