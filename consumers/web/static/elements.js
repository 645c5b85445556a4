// Functions for elements and shown values that several panels use.

// Creates an element with a class and children; strings become text nodes.
export function element(name, className = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export function button(label, onClick, className = "") {
  const made = element("button", className, label);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// The date and time, to the minute.
export function shownTime(ms) {
  const time = new Date(ms);
  if (Number.isNaN(time.getTime())) return "at an unknown time";
  return time.toLocaleString([], { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
}

export function shownBytes(bytes) {
  const [unit, size] = [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]].find((each) => bytes >= each[1]) ?? ["B", 1];
  return `${(bytes / size).toFixed(bytes >= 10 * size || size === 1 ? 0 : 1)} ${unit}`;
}

export const byId = (id) => document.getElementById(id);
