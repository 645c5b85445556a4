// A film: a picture of time, flowing from right to left. What a window looks like is painted once, when it comes, into a
// ring of columns; every drawing after that is a copy. So a frame costs the same however much of the past is in sight.
//
//   ring    | 642 643 644 | 641 is written over next
//   shown     right: the newest        left: the oldest that fits

export class Film {
  #ring = document.createElement("canvas");
  #brush = this.#ring.getContext("2d", { willReadFrequently: false });
  // The last window that each column shows; -1 for none.
  #painted = new Int32Array(0);
  #perWindow = 1;
  #perColumn = 1;
  #columns = 0;
  #height = 0;

  // So many windows at least in a picture of this size in pixels: whole pixels for each, or whole windows for each pixel.
  fit(width, height, windows) {
    const perWindow = Math.max(1, Math.floor(width / windows));
    const perColumn = Math.max(1, Math.ceil(windows / width));
    const columns = Math.ceil(width / perWindow);
    const isSame = columns === this.#columns && perWindow === this.#perWindow && perColumn === this.#perColumn;
    if (isSame && height === this.#height) return;
    [this.#perWindow, this.#perColumn, this.#columns, this.#height] = [perWindow, perColumn, columns, height];
    this.#ring.width = columns * perWindow;
    this.#ring.height = height;
    this.#painted = new Int32Array(columns).fill(-1);
  }

  // Everything is painted anew: colours have changed, or another session is shown.
  forget() {
    this.#painted.fill(-1);
    this.#brush.clearRect(0, 0, this.#ring.width, this.#height);
  }

  // How many windows it shows.
  get windows() {
    return this.#columns * this.#perColumn;
  }

  get height() {
    return this.#height;
  }

  // Pixels from the right edge to where a window ends.
  fromRight(window, end) {
    return ((Math.floor(end / this.#perColumn) - Math.floor(window / this.#perColumn)) * this.#perWindow);
  }

  // The window that is shown so many pixels from the right edge.
  windowAt(fromRight, end) {
    const slot = Math.floor(end / this.#perColumn) - Math.floor(fromRight / this.#perWindow);
    return Math.min(end, slot * this.#perColumn + this.#perColumn - 1);
  }

  // The oldest window that fits.
  oldest(end) {
    return (Math.floor(end / this.#perColumn) - this.#columns + 1) * this.#perColumn;
  }

  // Paints what is missing of the windows in [first, end], the newest first, and copies all onto the canvas so that
  // `end` stands at `right`. paint(brush, x, width, from, to) paints windows [from, to] into an empty column. True where
  // time ran out before all was painted: then the next drawing goes on.
  draw(canvas, right, first, end, paint, untilMs) {
    const newest = Math.floor(end / this.#perColumn);
    let isUnfinished = false;
    for (let slot = newest; slot > newest - this.#columns; slot -= 1) {
      const [from, to] = [slot * this.#perColumn, Math.min(end, (slot + 1) * this.#perColumn - 1)];
      const place = this.#place(slot);
      const [shown, wanted] = [this.#painted[place], to < first ? -1 : to];
      if (shown === wanted) continue;
      // Out of time: what shows another time shows nothing until its turn comes.
      if (isUnfinished && Math.floor(shown / this.#perColumn) === slot) continue;
      const x = place * this.#perWindow;
      this.#brush.clearRect(x, 0, this.#perWindow, this.#height);
      this.#painted[place] = isUnfinished ? -1 : wanted;
      if (wanted < 0 || isUnfinished) continue;
      paint(this.#brush, x, this.#perWindow, Math.max(first, from), to);
      isUnfinished = performance.now() > untilMs;
    }
    this.#copy(canvas, right, newest);
    return isUnfinished;
  }

  // Where a slot stands in the ring; those before the beginning have places too.
  #place(slot) {
    return ((slot % this.#columns) + this.#columns) % this.#columns;
  }

  #copy(canvas, right, newest) {
    const [width, height] = [this.#ring.width, this.#height];
    const cut = (this.#place(newest) + 1) * this.#perWindow;
    canvas.drawImage(this.#ring, 0, 0, cut, height, right - cut, 0, cut, height);
    if (cut < width) canvas.drawImage(this.#ring, cut, 0, width - cut, height, right - width, 0, width - cut, height);
  }
}
