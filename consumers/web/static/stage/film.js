// A film: a picture of time that moves from right to left. Each window is painted once, into a ring buffer of columns; later
// drawings are copies. So the cost of a frame does not depend on how much of the past is visible.
//
//   ring    | 642 643 644 | 641 is overwritten next
//   shown     right: the newest        left: the oldest that fits

export class Film {
  #ring = document.createElement("canvas");
  #brush = this.#ring.getContext("2d", { willReadFrequently: false });
  // The last window in each column; -1 for an empty column.
  #painted = new Int32Array(0);
  #pixelsPerWindow = 1;
  #windowsPerColumn = 1;
  #columns = 0;
  #height = 0;

  // Sets the size in pixels and the least number of windows: whole pixels per window, or whole windows per pixel.
  fit(width, height, windows) {
    const perWindow = Math.max(1, Math.floor(width / windows));
    const perColumn = Math.max(1, Math.ceil(windows / width));
    const columns = Math.ceil(width / perWindow);
    const isSame = columns === this.#columns && perWindow === this.#pixelsPerWindow && perColumn === this.#windowsPerColumn;
    if (isSame && height === this.#height) return;
    [this.#pixelsPerWindow, this.#windowsPerColumn, this.#columns, this.#height] = [perWindow, perColumn, columns, height];
    this.#ring.width = columns * perWindow;
    this.#ring.height = height;
    this.#painted = new Int32Array(columns).fill(-1);
  }

  // Clears everything, after a change of colours or of the session.
  forget() {
    this.#painted.fill(-1);
    this.#brush.clearRect(0, 0, this.#ring.width, this.#height);
  }

  // The number of visible windows.
  get windows() {
    return this.#columns * this.#windowsPerColumn;
  }

  get height() {
    return this.#height;
  }

  // The pixels from the right edge to the end of a window.
  fromRight(window, end) {
    return ((Math.floor(end / this.#windowsPerColumn) - Math.floor(window / this.#windowsPerColumn)) * this.#pixelsPerWindow);
  }

  // The window at so many pixels from the right edge.
  windowAt(fromRight, end) {
    const slot = Math.floor(end / this.#windowsPerColumn) - Math.floor(fromRight / this.#pixelsPerWindow);
    return Math.min(end, slot * this.#windowsPerColumn + this.#windowsPerColumn - 1);
  }

  // The oldest window that fits.
  oldest(end) {
    return (Math.floor(end / this.#windowsPerColumn) - this.#columns + 1) * this.#windowsPerColumn;
  }

  // Paints the missing windows of [first, end], the newest first, and copies all onto the canvas with `end` at `right`.
  // paint(brush, x, width, from, to) paints windows [from, to] into an empty column. True if time ran out before all was
  // painted: the next drawing continues.
  draw(canvas, right, first, end, paint, untilMs) {
    const newest = Math.floor(end / this.#windowsPerColumn);
    let isUnfinished = false;
    for (let slot = newest; slot > newest - this.#columns; slot -= 1) {
      const [from, to] = [slot * this.#windowsPerColumn, Math.min(end, (slot + 1) * this.#windowsPerColumn - 1)];
      const column = this.#column(slot);
      const [shown, wanted] = [this.#painted[column], to < first ? -1 : to];
      if (shown === wanted) continue;
      // Out of time: a column with other windows is cleared and painted later.
      if (isUnfinished && Math.floor(shown / this.#windowsPerColumn) === slot) continue;
      const x = column * this.#pixelsPerWindow;
      this.#brush.clearRect(x, 0, this.#pixelsPerWindow, this.#height);
      this.#painted[column] = isUnfinished ? -1 : wanted;
      if (wanted < 0 || isUnfinished) continue;
      paint(this.#brush, x, this.#pixelsPerWindow, Math.max(first, from), to);
      isUnfinished = performance.now() > untilMs;
    }
    this.#copy(canvas, right, newest);
    return isUnfinished;
  }

  // The column of a slot in the ring; slots before the beginning have columns, too.
  #column(slot) {
    return ((slot % this.#columns) + this.#columns) % this.#columns;
  }

  #copy(canvas, right, newest) {
    const [width, height] = [this.#ring.width, this.#height];
    const cut = (this.#column(newest) + 1) * this.#pixelsPerWindow;
    canvas.drawImage(this.#ring, 0, 0, cut, height, right - cut, 0, cut, height);
    if (cut < width) canvas.drawImage(this.#ring, cut, 0, width - cut, height, right - width, 0, width - cut, height);
  }
}
