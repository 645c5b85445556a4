// The controls of time: live or held, the slider, the jump to the parting. In a replay they change the window of all pages
// that show it.

import { byId, setText } from "../elements.js";
import { Playhead } from "../record/playhead.js";
import { secondsAt, WINDOWS_PER_SECOND } from "../record/windows.js";

export class Transport {
  #playhead = new Playhead();
  #columns = null;
  #playback = null;
  #onMove;
  #isDragged = false;

  // onMove() when another window must be shown; onJump(byte) after the jump to the parting at that byte.
  constructor(onMove, onJump) {
    this.#onMove = onMove;
    byId("live").addEventListener("click", () => this.toggle());
    const slider = byId("time");
    slider.addEventListener("input", () => {
      this.#isDragged = true;
      // The slider's end is the newest window that was drawn; newer ones may have been received since.
      const { value, max } = slider;
      this.hold(Number(value) >= Number(max) && !this.#playback ? Infinity : Number(value));
    });
    slider.addEventListener("change", () => (this.#isDragged = false));
    byId("jump").addEventListener("click", () => {
      if (this.#hasFrames && this.#columns.partings.length > 0) onJump(this.#jump());
    });
  }

  // True if the newest window is shown, or if a replay moves.
  get isLive() {
    if (!this.#playback) return this.#playhead.isLive;
    return this.isMoving || (this.#columns !== null && this.window >= this.#columns.last);
  }

  // True if another window must be shown soon, even without a new frame.
  get isMoving() {
    return this.#playback?.playing.isMoving(performance.now()) ?? false;
  }

  // Begins another session: its columns, null until they exist, and the playback of a replay.
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

  // Holds a window, or follows the newest. A replay is ordered to that window.
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
    const slider = byId("time");
    if (!this.#isDragged) [slider.min, slider.max, slider.value] = [first, end, window];
    const seconds = secondsAt(window).toFixed(1);
    const flows = this.#playback ? this.isMoving : this.isLive;
    slider.setAttribute("aria-valuetext", `${seconds} seconds${flows ? (this.#playback ? ", playing" : ", live") : ""}`);
    const newest = secondsAt(end).toFixed(1);
    setText(byId("time-text"), flows && !this.#playback ? `${seconds} s` : `${seconds} of ${newest} s`);
    // An absent button keeps its space, so that nothing moves when it appears.
    byId("jump").classList.toggle("absent", partings.length === 0);
    const live = byId("live");
    setText(live, this.#playback ? this.#playLabel() : liveLabel(this.isLive, runs));
    live.setAttribute("aria-disabled", String(!this.#playback && this.isLive && !runs));
  }

  // Pauses or continues.
  toggle() {
    if (!this.#hasFrames || byId("live").getAttribute("aria-disabled") === "true") return;
    if (this.#playback) {
      const { playing } = this.#playback;
      if (playing.isOver(performance.now())) this.#playback.order({ window: 0, paused: false, rate: playing.rate || 1 });
      else if (playing.isPaused) this.#playback.order({ paused: false });
      // At the window that this page shows, not the one that the replay has reached when it receives the order.
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

  // Shows a window one second after the parting, so that the fork is visible.
  #jump() {
    const { first, last, partings } = this.#columns;
    const [parted, byte] = partings.at(-1);
    const window = Math.min(last, Math.max(first, parted) + WINDOWS_PER_SECOND);
    if (this.#playback) this.#playback.order({ window, paused: true });
    else this.#playhead.hold(window);
    return byte;
  }
}

function liveLabel(isLive, runs) {
  if (isLive) return runs ? "Pause" : "At the end";
  return runs ? "Follow live" : "Go to the end";
}
