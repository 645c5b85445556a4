// The position of a replay between two reports, so that it moves smoothly and is the same on every page. Pure: times are
// arguments, in milliseconds.
//
//   report      window 60, rate 2             window 92
//   shown       60 . . . 75 . . . 90 . . .    90 . 92 . 95      small differences are corrected in steps, without a jump

import { WINDOWS_PER_SECOND } from "./windows.js";

const SECOND_MS = 1_000;
// A report that differs by less describes the same motion, a moment earlier or later.
const SMALL_S = 0.25;
const SMALLEST_WINDOWS = 4;

export class Playing {
  rate = 1;
  isPaused = false;
  // The recording's last window; -1 while it is unknown.
  lastWindow = -1;
  #window = -1;
  #atMs = 0;

  // The window to show. A replay as fast as the council computes has no speed of its own: it shows what was received.
  window(nowMs) {
    if (this.isPaused || this.rate === 0 || this.#window < 0) return Math.floor(this.#window);
    const moved = ((nowMs - this.#atMs) / SECOND_MS) * WINDOWS_PER_SECOND * this.rate;
    return Math.floor(Math.min(this.#lastKnown, this.#window + Math.max(0, moved)));
  }

  isOver(nowMs) {
    return this.lastWindow >= 0 && this.window(nowMs) >= this.lastWindow;
  }

  isMoving(nowMs) {
    return !this.isPaused && !this.isOver(nowMs);
  }

  // True if a report agrees with what is shown here.
  agrees({ window, rate, paused }, nowMs) {
    const allowed = this.isMoving(nowMs) ? this.#small : 0;
    return rate === this.rate && paused === this.isPaused && Math.abs(window - this.window(nowMs)) <= allowed;
  }

  take(report, nowMs) {
    const shown = this.window(nowMs);
    const isSame = this.#window >= 0 && this.agrees(report, nowMs) && this.isMoving(nowMs) && this.rate > 0;
    this.lastWindow = report.last_window;
    [this.rate, this.isPaused] = [report.rate, report.paused];
    // A position a little behind is not waited for; one ahead is approached by a quarter each time.
    const ahead = report.window - shown;
    this.#set(isSame && ahead < 0 ? shown : isSame ? shown + ahead / 4 : report.window, nowMs);
  }

  // Applies an order before the replay reports it.
  order({ rate, paused, window, step = 0 }, nowMs) {
    const target = (window ?? this.window(nowMs)) + step;
    this.rate = rate ?? this.rate;
    this.isPaused = paused ?? this.isPaused;
    this.#set(Math.min(this.#lastKnown, Math.max(0, target)), nowMs);
  }

  get #small() {
    return Math.max(SMALLEST_WINDOWS, SMALL_S * WINDOWS_PER_SECOND * this.rate);
  }

  get #lastKnown() {
    return this.lastWindow < 0 ? Infinity : this.lastWindow;
  }

  #set(window, nowMs) {
    [this.#window, this.#atMs] = [window, nowMs];
  }
}
