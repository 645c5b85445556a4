// Where a replay stands between two reports of it, so that it moves smoothly and looks the same on every page. Pure: times
// are arguments, in milliseconds.
//
//   report      window 60, rate 2             window 92
//   shown       60 . . . 75 . . . 90 . . .    90 . 92 . 95      a little ahead or behind: caught up with, never a leap

const WINDOWS_A_SECOND = 60;
const SECOND_MS = 1_000;
// Reports that differ by less are the same motion, seen a moment earlier or later.
const SMALL_S = 0.25;
const SMALLEST_WINDOWS = 4;

export class Playing {
  rate = 1;
  isPaused = false;
  // The recording's last window; -1 until it is known.
  lastWindow = -1;
  #window = -1;
  #atMs = 0;

  // A replay as fast as the council computes has no pace of its own: its position is what was received.
  window(nowMs) {
    if (this.isPaused || this.rate === 0 || this.#window < 0) return Math.floor(this.#window);
    const moved = ((nowMs - this.#atMs) / SECOND_MS) * WINDOWS_A_SECOND * this.rate;
    return Math.floor(Math.min(this.#lastKnown, this.#window + Math.max(0, moved)));
  }

  isOver(nowMs) {
    return this.lastWindow >= 0 && this.window(nowMs) >= this.lastWindow;
  }

  isMoving(nowMs) {
    return !this.isPaused && !this.isOver(nowMs);
  }

  // Whether a report says what is shown here.
  agrees({ window, rate, paused }, nowMs) {
    const allowed = this.isMoving(nowMs) ? this.#small : 0;
    return rate === this.rate && paused === this.isPaused && Math.abs(window - this.window(nowMs)) <= allowed;
  }

  take(report, nowMs) {
    const shown = this.window(nowMs);
    const isSame = this.#window >= 0 && this.agrees(report, nowMs) && this.isMoving(nowMs) && this.rate > 0;
    this.lastWindow = report.last_window;
    [this.rate, this.isPaused] = [report.rate, report.paused];
    // What is a little behind waits for nobody: it goes on from what is shown, a quarter nearer each time.
    const ahead = report.window - shown;
    this.#place(isSame && ahead < 0 ? shown : isSame ? shown + ahead / 4 : report.window, nowMs);
  }

  // What an order asks for, before the replay's own report comes.
  order({ rate, paused, window, step = 0 }, nowMs) {
    const place = (window ?? this.window(nowMs)) + step;
    this.rate = rate ?? this.rate;
    this.isPaused = paused ?? this.isPaused;
    this.#place(Math.min(this.#lastKnown, Math.max(0, place)), nowMs);
  }

  get #small() {
    return Math.max(SMALLEST_WINDOWS, SMALL_S * WINDOWS_A_SECOND * this.rate);
  }

  get #lastKnown() {
    return this.lastWindow < 0 ? Infinity : this.lastWindow;
  }

  #place(window, nowMs) {
    [this.#window, this.#atMs] = [window, nowMs];
  }
}
