// The plots: energies, the diversity index with its bounds, disagreement, sync lag; with the same time axis as the braid.

import { drawCrosshair, drawHeads } from "./labels.js";
import { Track } from "./track.js";

const PAD_PX = { top: 8, bottom: 8 };
const LABEL_PX = 44;
const HATCH_PX = 5;
// Larger values are cut in the plot, not in the number beside it.
const MOST_LAG_MS = 100;
const TARGET_LAG_MS = 50;

class Plot extends Track {
  constructor(canvas, { paint, over = () => {}, most = 1, levels = [0, 1] }) {
    super(canvas, {
      head: LABEL_PX,
      paint: (ring, x, width, from, to, view, height, ratio) => {
        const y = (value) => {
          const [top, bottom] = [PAD_PX.top * ratio, height - PAD_PX.bottom * ratio];
          return bottom - Math.min(1, value / most) * (bottom - top);
        };
        ring.fillStyle = view.colours.line;
        for (const level of levels) ring.fillRect(x, Math.round(y(level)), width, Math.max(1, Math.round(ratio / 2)));
        paint({ ring, x, width, from, to, view, y, ratio });
      },
      over: (brush, view) => {
        const y = (value) => {
          const [top, bottom] = [PAD_PX.top, this.height - PAD_PX.bottom];
          return bottom - Math.min(1, value / most) * (bottom - top);
        };
        over(brush, view, y, this);
        drawCrosshair(brush, this, view);
      },
    });
  }
}

export function energyPlot(canvas) {
  return new Plot(canvas, {
    paint: (column) => {
      const { columns, colours } = column.view;
      columns.names.forEach((_, index) => {
        line(column, (window) => columns.ofMember(index, "energy", window), colours.members[index], 1.5);
      });
      line(column, (window) => columns.number("energy", window), colours.ink, 2.5);
    },
    over: (brush, { columns, colours, end }, y, plot) => {
      const labels = columns.names.map((_, index) => ({
        index, y: y(columns.ofMember(index, "energy", end)), text: String(index + 1),
      }));
      labels.push({ index: -1, y: y(columns.number("energy", end)), text: "E", isStrong: true });
      drawHeads(brush, labels, plot.width - LABEL_PX + 8, [8, plot.height - 6], colours);
    },
  });
}

export function diversityPlot(canvas) {
  return new Plot(canvas, {
    paint: (column) => {
      const { columns, colours } = column.view;
      if (columns.has(column.to) && columns.word("di_source", column.to) === "logprobs") {
        band(column, columns.number("di_low", column.to), columns.number("diversity_index", column.to), colours.band);
        line(column, measured(columns, "diversity_index"), colours.ink, 2);
      } else {
        hatch(column, columns.number("di_covered", column.to), colours.quiet);
      }
    },
    over: (brush, { columns, colours, end }, y, plot) => {
      if (columns.word("di_source", end) !== "logprobs") return;
      const label = { index: -1, y: y(columns.number("diversity_index", end)), text: "DI", isStrong: true };
      drawHeads(brush, [label], plot.width - LABEL_PX + 8, [8, plot.height - 6], colours);
    },
  });
}

export function disagreementPlot(canvas) {
  return new Plot(canvas, {
    paint: (column) => {
      const { columns, colours } = column.view;
      band(column, 0, columns.number("jsd", column.to), colours.band);
      line(column, (window) => columns.number("jsd", window), colours.ink, 2);
    },
  });
}

export function lagPlot(canvas) {
  return new Plot(canvas, {
    most: MOST_LAG_MS,
    levels: [0, TARGET_LAG_MS],
    paint: (column) => {
      const { columns, colours } = column.view;
      line(column, (window) => columns.number("sync_lag_ms", window), colours.ink, 2);
    },
    over: (brush, { colours }, y, plot) => {
      brush.font = `11px ${colours.font}`;
      brush.fillStyle = colours.quiet;
      brush.textAlign = "left";
      brush.textBaseline = "middle";
      brush.fillText(`${TARGET_LAG_MS} ms`, plot.width - LABEL_PX + 6, y(TARGET_LAG_MS));
    },
  });
}

// The index at windows where it was measured; elsewhere frames contain the default, 0.5.
function measured(columns, name) {
  return (window) => (columns.has(window) && columns.word("di_source", window) === "logprobs" ? columns.number(name, window) : NaN);
}

// A line from the previous window to the column's last, `thick` CSS pixels; nothing if a number is missing.
function line({ ring, x, width, from, to, y, ratio }, value, colour, thick) {
  const half = (thick * ratio) / 2;
  ring.fillStyle = colour;
  const [before, now] = [value(from - 1), value(to)];
  if (Number.isNaN(now)) return;
  if (from < to || Number.isNaN(before)) {
    let [top, bottom] = [y(now), y(now)];
    for (let at = from - 1; at < to; at += 1) {
      const height = y(value(at));
      if (!Number.isNaN(height)) [top, bottom] = [Math.min(top, height), Math.max(bottom, height)];
    }
    ring.fillRect(x, top - half, width, bottom - top + 2 * half);
    return;
  }
  let last = y(before);
  for (let at = 0; at < width; at += 1) {
    const next = y(before + ((now - before) * (at + 1)) / width);
    ring.fillRect(x + at, Math.min(last, next) - half, 1, Math.abs(next - last) + 2 * half);
    last = next;
  }
}

function band({ ring, x, width, y }, low, high, colour) {
  if (Number.isNaN(low) || Number.isNaN(high)) return;
  ring.fillStyle = colour;
  ring.fillRect(x, y(high), width, y(low) - y(high));
}

// Stripes up to a value, which move with the film.
function hatch({ ring, x, width, to, y, ratio }, value, colour) {
  if (Number.isNaN(value)) return;
  const every = Math.round(HATCH_PX * ratio);
  const [top, bottom] = [Math.round(y(value)), Math.round(y(0))];
  ring.fillStyle = colour;
  ring.fillRect(x, top, width, ratio);
  for (let at = 0; at < width; at += 1) {
    for (let row = top; row < bottom; row += 1) if ((to * width + at + row) % every < ratio) ring.fillRect(x + at, row, 1, 1);
  }
}
