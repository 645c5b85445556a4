// When the page is drawn: after a change, at the screen's next refresh, and at most at the tier's rate.

// With reduced motion the page is drawn at most so often a second.
const CALM_FPS = 4;
const SECOND_MS = 1_000;

const wantsLessMotion = matchMedia("(prefers-reduced-motion: reduce)");

export class Drawing {
  #draw;
  #fps;
  // The requested animation frame; 0 for none.
  #requested = 0;
  #nextMs = 0;

  // draw(now in ms), and fps() is the tier's rate.
  constructor(draw, fps) {
    [this.#draw, this.#fps] = [draw, fps];
    wantsLessMotion.addEventListener("change", () => this.schedule());
    // The window may have moved to a screen with another resolution.
    addEventListener("resize", () => this.schedule());
  }

  get isCalm() {
    return wantsLessMotion.matches;
  }

  get isScheduled() {
    return this.#requested !== 0;
  }

  schedule() {
    if (!this.#requested) this.#requested = requestAnimationFrame((nowMs) => this.#drawWhenDue(nowMs));
  }

  now() {
    cancelAnimationFrame(this.#requested);
    this.#requested = 0;
    this.#draw(performance.now());
  }

  // Draws at the first refresh of the screen that is due, or a millisecond early.
  #drawWhenDue(nowMs) {
    this.#requested = 0;
    if (nowMs < this.#nextMs - 1) {
      this.schedule();
      return;
    }
    const betweenMs = SECOND_MS / (this.isCalm ? CALM_FPS : this.#fps());
    // The rate is kept from the last due time, unless that is long ago.
    this.#nextMs = (nowMs - this.#nextMs < betweenMs ? this.#nextMs : nowMs) + betweenMs;
    this.#draw(nowMs);
  }
}
