// A session's agreement as a small line: time to the right, agreement upwards, a gap where it was not measured.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, MARGIN] = [72, 20, 2];

// The picture, with a text for screen readers.
export function sparkline(agreement, mean) {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("class", "sparkline");
  picture.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", mean === null ? "Agreement: not measured" : `Agreement: ${mean.toFixed(2)} on average`);
  const base = document.createElementNS(SVG, "path");
  base.setAttribute("class", "base");
  base.setAttribute("d", `M0 ${HEIGHT - 0.5}H${WIDTH}`);
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", pathOf(agreement));
  picture.append(base, line);
  return picture;
}

function pathOf(values) {
  const x = (index) => (values.length > 1 ? MARGIN + (index / (values.length - 1)) * (WIDTH - 2 * MARGIN) : MARGIN);
  const y = (value) => HEIGHT - MARGIN - Math.min(1, Math.max(0, value)) * (HEIGHT - 2 * MARGIN);
  let path = "";
  let isDown = false;
  values.forEach((value, index) => {
    if (value !== null) {
      path += `${isDown ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      // A single measurement is a dot.
      if (!isDown && (values[index + 1] ?? null) === null) path += "h0.1";
    }
    isDown = value !== null;
  });
  return path;
}
