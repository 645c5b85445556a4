// Which window is looked at: the newest, as it comes, or one that a person holds.

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

  // The received window to show; -1 where there is none. A held one that the record no longer has gives way to the
  // oldest.
  window(columns) {
    if (this.isLive || columns.last < 0) return columns.last;
    const found = columns.nearest(Math.max(columns.first, this.#held));
    return found < 0 ? columns.last : found;
  }
}
