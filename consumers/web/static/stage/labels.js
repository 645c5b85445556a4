// What is drawn over the films: shapes on strands, labels at the ends of lines, the line at the pointer.

import { WINDOWS_PER_SECOND } from "../record/windows.js";
import { shapeOf } from "./marks.js";

const LABEL_PX = 15;
const SHAPE_PX = 4;

// The member's shape, which identifies it without its colour.
export function drawShape(brush, index, x, y, colour) {
  brush.save();
  brush.translate(x, y);
  brush.scale(SHAPE_PX, SHAPE_PX);
  brush.fillStyle = colour;
  brush.fill(new Path2D(shapeOf(index)));
  brush.restore();
}

// Labels at the ends of lines: {y, text, index or -1, isStrong}. Labels that would overlap are moved apart.
export function drawHeads(brush, labels, x, [top, bottom], colours) {
  labels.sort((one, other) => other.y - one.y);
  let limit = bottom;
  for (const label of labels) {
    label.y = Math.min(label.y, limit);
    limit = label.y - LABEL_PX;
  }
  const overflow = Math.max(0, top - labels.at(-1).y);
  brush.textAlign = "left";
  brush.textBaseline = "middle";
  for (const { index, y, text, isStrong } of labels) {
    if (index >= 0) drawShape(brush, index, x + 4, y + overflow, colours.members[index]);
    brush.font = `${isStrong ? "600 " : ""}12px ${colours.font}`;
    brush.fillStyle = colours.ink;
    brush.fillText(text, index >= 0 ? x + 13 : x, y + overflow + 0.5);
  }
}

// A line at the window under the pointer.
export function drawCrosshair(brush, track, view) {
  if (view.pointed < 0) return;
  const x = Math.round(track.x(view.pointed)) - 0.5;
  if (x < 0) return;
  brush.strokeStyle = view.colours.ink;
  brush.lineWidth = 1;
  brush.globalAlpha = 0.55;
  brush.beginPath();
  brush.moveTo(x, 0);
  brush.lineTo(x, track.height);
  brush.stroke();
  brush.globalAlpha = 1;
}

// The seconds since the session's origin, along the bottom.
export function drawSeconds(brush, track, view, y, every) {
  brush.font = `11px ${view.colours.font}`;
  brush.fillStyle = view.colours.quiet;
  brush.textAlign = "center";
  brush.textBaseline = "alphabetic";
  const step = every * WINDOWS_PER_SECOND;
  for (let at = Math.ceil(Math.max(view.first, track.oldest, 1) / step) * step; at <= view.end; at += step) {
    const x = track.x(at);
    if (x > 16 && x < track.width - track.head - 8) brush.fillText(`${at / WINDOWS_PER_SECOND} s`, x, y);
  }
}
