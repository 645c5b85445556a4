// The way through time: live or held, the slider, the jump to where they parted. A replay is moved for every page that
// shows it.

import { at, setText } from "../elements.js";
import { Playhead } from "../record/playhead.js";

const WINDOWS_A_SECOND = 60;

export class Transport {
  #playhead = new Playhead();
  #columns = null;
  #playback = null;
  #onMove;
  #isDragged = false;

  // onMove() where another window is to be shown; onJump(byte) once the window where they parted is.
  constructor(onMove, onJump) {
    this.#onMove = onMove;
    at("live").addEventListener("click", () => this.toggle());
    const slider = at("time");
    slider.addEventListener("input", () => {
      this.#isDragged = true;
      // Its end is the newest window that was drawn; meanwhile there may be a newer one.
      const { value, max } = slider;
      this.hold(Number(value) >= Number(max) && !this.#playback ? Infinity : Number(value));
    });
    slider.addEventListener("change", () => (this.#isDragged = false));
    at("jump").addEventListener("click", () => {
      if (this.#hasFrames && this.#columns.partings.length > 0) onJump(this.#jump());
    });
  }

  // Whether time flows: what is shown is the newest, or a replay moves.
  get isLive() {
    if (!this.#playback) return this.#playhead.isLive;
    return this.isMoving || (this.#columns !== null && this.window >= this.#columns.last);
  }

  // Whether another window is shown in a moment, though none comes.
  get isMoving() {
    return this.#playback?.playing.isMoving(performance.now()) ?? false;
  }

  // Another session: its columns, once it has some, and the playback of a replay.
  begin(columns, playback = null) {
    [this.#columns, this.#playback] = [columns, playback];
    this.#playhead.follow();
  }

  // The window to show.
  get window() {
    if (!this.#playback || !this.#hasFrames) return this.#playhead.window(this.#columns);
    const { playing } = this.#playback;
    if (playing.rate === 0 && !playing.isPaused) return this.#columns.last;
    this.#playhead.hold(Math.max(this.#columns.first, playing.window(performance.now())));
    return this.#playhead.window(this.#columns);
  }

  // Holds a window; the newest is followed. A replay goes there.
  hold(window) {
    if (!this.#hasFrames) return;
    if (this.#playback) {
      this.#playback.order({ window });
      return;
    }
    if (window >= this.#columns.last) this.#playhead.follow();
    else this.#playhead.hold(window);
    this.#onMove();
  }

  draw(window, runs) {
    const { first, last, partings } = this.#columns;
    const end = Math.max(last, this.#playback?.playing.lastWindow ?? last);
    const slider = at("time");
    if (!this.#isDragged) [slider.min, slider.max, slider.value] = [first, end, window];
    const seconds = ((window + 1) / WINDOWS_A_SECOND).toFixed(1);
    const flows = this.#playback ? this.isMoving : this.isLive;
    slider.setAttribute("aria-valuetext", `${seconds} seconds${flows ? (this.#playback ? ", playing" : ", live") : ""}`);
    const newest = ((end + 1) / WINDOWS_A_SECOND).toFixed(1);
    setText(at("time-text"), flows && !this.#playback ? `${seconds} s` : `${seconds} of ${newest} s`);
    // Its place is kept, so that nothing moves when it comes.
    at("jump").classList.toggle("absent", partings.length === 0);
    const live = at("live");
    setText(live, this.#playback ? this.#playLabel() : liveLabel(this.isLive, runs));
    live.setAttribute("aria-disabled", String(!this.#playback && this.isLive && !runs));
  }

  // Pauses, or goes on.
  toggle() {
    if (!this.#hasFrames || at("live").getAttribute("aria-disabled") === "true") return;
    if (this.#playback) {
      const { playing } = this.#playback;
      if (playing.isOver(performance.now())) this.#playback.order({ window: 0, paused: false, rate: playing.rate || 1 });
      else if (playing.isPaused) this.#playback.order({ paused: false });
      // Here, and not where the replay is when it hears of it.
      else this.#playback.order({ window: this.window, paused: true });
      return;
    }
    if (this.isLive) this.#playhead.hold(this.#columns.last);
    else this.#playhead.follow();
    this.#onMove();
  }

  get #hasFrames() {
    return this.#columns !== null && this.#columns.last >= 0;
  }

  #playLabel() {
    const { playing } = this.#playback;
    if (playing.isOver(performance.now())) return "Play again";
    return playing.isPaused ? "Play" : "Pause";
  }

  // A little later than they parted, so that the fork is in sight.
  #jump() {
    const { first, last, partings } = this.#columns;
    const [parted, byte] = partings.at(-1);
    const window = Math.min(last, Math.max(first, parted) + WINDOWS_A_SECOND);
    if (this.#playback) this.#playback.order({ window, paused: true });
    else this.#playhead.hold(window);
    return byte;
  }
}

function liveLabel(isLive, runs) {
  if (isLive) return runs ? "Pause" : "At the end";
  return runs ? "Follow live" : "To the end";
}
