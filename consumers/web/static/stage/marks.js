// The members' shapes, the same in lanes and pictures: they identify members without colours.

// SVG paths around the origin, about two units wide: disc, square, triangle, diamond, inverted triangle, cross.
const SHAPES = [
  "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0Z",
  "M-.88-.88h1.76v1.76h-1.76Z",
  "M0-1.15 1.15.85h-2.3Z",
  "M0-1.25 1.25 0 0 1.25-1.25 0Z",
  "M0 1.15 1.15-.85h-2.3Z",
  "M-.36-1.15h.72v.79h.79v.72h-.79v.79h-.72v-.79h-.79v-.72h.79Z",
];

export const shapeOf = (index) => SHAPES[index % SHAPES.length];

export const colourNameOf = (index) => `--member-${(index % SHAPES.length) + 1}`;

export function shapeIcon(index) {
  const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  icon.setAttribute("viewBox", "-1.35 -1.35 2.7 2.7");
  icon.setAttribute("aria-hidden", "true");
  path.setAttribute("d", shapeOf(index));
  icon.append(path);
  return icon;
}
