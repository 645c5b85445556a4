// The window that the page shows: the newest, or one that the user holds.

export class Playhead {
  #held = -1;

  get isLive() {
    return this.#held < 0;
  }

  hold(window) {
    this.#held = Math.max(0, window);
  }

  follow() {
    this.#held = -1;
  }

  // The received window to show; -1 if there is none. In place of a held window that is no longer kept, the oldest.
  window(columns) {
    if (this.isLive || columns.last < 0) return columns.last;
    const found = columns.nearest(Math.max(columns.first, this.#held));
    return found < 0 ? columns.last : found;
  }
}
