// The large picture: the braid and, below it, the ribbon of agreement.

import { Braid } from "./braid.js";
import { Drive } from "./drive.js";
import { drawCrosshair, drawHeads, drawSeconds, drawShape } from "./labels.js";
import { Track } from "./track.js";

const RIBBON_PX = 16;
const SECONDS_PX = 18;
const GAP_PX = 8;
const HATCH_PX = 5;
// Each strand has its shape at every so many windows.
const SHAPE_EVERY = 180;
const WIDE_PX = 760;
const WINDOWS_IN_SIGHT = 500;

export class Hero extends Track {
  #braid = null;
  #image = null;
  #scratch = null;
  #heights = null;

  constructor(canvas) {
    super(canvas, {
      paint: (...column) => this.#paint(...column),
      over: (brush, view) => this.#over(brush, view),
    });
  }

  // Begins a session.
  begin(memberCount) {
    this.#scratch = new Drive(memberCount);
    this.#heights = new Float64Array(memberCount);
    this.forget();
  }

  // Sets the number of visible windows for all tracks; narrow screens show fewer.
  draw(view, untilMs) {
    this.head = this.width >= WIDE_PX ? 168 : 62;
    const windows = Math.max(1, Math.min(WINDOWS_IN_SIGHT, this.width - this.head));
    const isUnfinished = super.draw({ ...view, windows }, untilMs);
    view.windows = this.windows;
    return isUnfinished;
  }

  get #braidPx() {
    return this.height - RIBBON_PX - SECONDS_PX - GAP_PX;
  }

  #paint(ring, x, width, from, to, view, height, ratio) {
    const braidHeight = Math.round(this.#braidPx * ratio);
    if (this.#image?.width !== width || this.#image.height !== braidHeight) {
      this.#braid = new Braid(braidHeight);
      this.#image = new ImageData(width, braidHeight);
    }
    for (let at = 0; at < width; at += 1) {
      view.drives.between(to, (at + 1) / width, this.#scratch);
      this.#braid.column(this.#image.data, width, at, this.#scratch, view.colours.light, view.isCalm, this.#heights);
    }
    ring.putImageData(this.#image, x, 0);
    paintRibbon(ring, x, width, to, view, braidHeight + Math.round(GAP_PX * ratio), Math.round(RIBBON_PX * ratio), ratio);
  }

  #over(brush, view) {
    const ratio = this.#image ? this.#image.height / this.#braidPx : 1;
    const heights = (window) => {
      view.drives.between(window, 1, this.#scratch);
      return this.#braid.strands(this.#scratch, view.isCalm, this.#heights);
    };
    drawSeconds(brush, this, view, this.height - 4, this.width < 500 ? 2 : 1);
    if (this.#braid) {
      if (view.columns.isTogether) this.#drawDecisions(brush, view, heights, ratio);
      else this.#drawShapes(brush, view, heights, ratio);
      this.#drawPartings(brush, view);
      this.#drawHeads(brush, view, heights(view.end), ratio);
    }
    drawCrosshair(brush, this, view);
  }

  #drawShapes(brush, view, heights, ratio) {
    const count = this.#heights.length;
    const first = Math.max(view.first, this.oldest);
    for (let index = 0; index < count; index += 1) {
      const offset = Math.round((index * SHAPE_EVERY) / count);
      for (let at = Math.ceil((first - offset) / SHAPE_EVERY) * SHAPE_EVERY + offset; at < view.end; at += SHAPE_EVERY) {
        drawShape(brush, index, this.x(at), heights(at)[index] / ratio, view.colours.ground);
      }
    }
  }

  // At each decision the shape of the member whose text the council took.
  #drawDecisions(brush, view, heights, ratio) {
    const first = Math.max(view.first, this.oldest);
    for (const [window, by] of view.columns.decided) {
      if (window < first || window > view.end || by === null) continue;
      drawShape(brush, by, this.x(window), heights(window)[by] / ratio, view.colours.ground);
    }
  }

  // A dotted line and a fork where the members parted.
  #drawPartings(brush, view) {
    for (const [window, byte] of view.columns.partings) {
      const x = Math.round(this.x(window)) + 0.5;
      if (window < view.first || window > view.end || x < 0) continue;
      brush.strokeStyle = view.colours.ink;
      brush.lineWidth = 1;
      brush.setLineDash([2, 3]);
      brush.beginPath();
      brush.moveTo(x, 26);
      brush.lineTo(x, this.height - SECONDS_PX);
      brush.stroke();
      brush.setLineDash([]);
      brush.lineWidth = 1.5;
      brush.stroke(new Path2D(`M${x - 7} 14h4c3 0 4-5 7-5h3m-10 5c3 0 4 5 7 5h3`));
      brush.font = `12px ${view.colours.font}`;
      brush.fillStyle = view.colours.ink;
      const text = `parted at byte ${byte}`;
      const isRoom = x + 12 + brush.measureText(text).width < this.width - this.head;
      brush.textAlign = isRoom ? "left" : "right";
      brush.textBaseline = "middle";
      brush.fillText(text, isRoom ? x + 12 : x - 12, 14);
    }
  }

  #drawHeads(brush, view, heights, ratio) {
    const isWide = this.width >= WIDE_PX;
    const labels = [...heights].map((height, index) => ({
      index,
      y: height / ratio,
      text: isWide ? `${index + 1} ${shortened(view.columns.names[index])}` : String(index + 1),
    }));
    drawHeads(brush, labels, this.width - this.head + 10, [12, this.#braidPx - 10], view.colours);
    brush.fillStyle = view.colours.quiet;
    brush.font = `12px ${view.colours.font}`;
    brush.textBaseline = "middle";
    brush.textAlign = "left";
    const y = this.#braidPx + GAP_PX + RIBBON_PX / 2 + 0.5;
    brush.fillText(isWide ? "agreement" : "agree", this.width - this.head + 10, y);
  }
}

function shortened(name) {
  return name.length > 18 ? `${name.slice(0, 17)}…` : name;
}

// The height is the agreement; colour and pattern are the kind: solid, dotted, striped.
function paintRibbon(ring, x, width, window, view, top, height, ratio) {
  const { columns, colours } = view;
  const agreement = columns.number("agreement", window);
  ring.fillStyle = colours.line;
  ring.fillRect(x, top + height - ratio, width, ratio);
  if (Number.isNaN(agreement)) return;
  const kind = columns.word("interference", window);
  const isResonant = columns.word("resonance", window);
  ring.fillStyle = isResonant ? colours.ring : colours.kinds[kind];
  const high = Math.max(ratio, agreement * height);
  ring.fillRect(x, top + height - high, width, high);
  if (kind === "constructive") return;
  const hatch = Math.round(HATCH_PX * ratio);
  for (let at = 0; at < width; at += 1) {
    // Gaps as stripes or dots, counted in windows so that they move with the ribbon.
    const along = window * width + at;
    for (let y = top + height - high; y < top + height - ratio; y += 1) {
      const isGap = kind === "destructive" ? (along + y) % hatch < ratio : along % hatch < ratio && y % hatch < ratio;
      if (isGap) ring.clearRect(x + at, y, 1, 1);
    }
  }
}
