// The nodes of a stretch of text: text nodes, with the fork and the marks that lie in it.

import { element } from "../elements.js";

// The text between two offsets: `fork` is the offset where the members parted, -1 for none; `change` is the text that a
// what-if put there, as {from, to}, or null.
export function nodesOf(text, from, to, fork, change) {
  const inside = (at) => at > from && at < to;
  const cuts = [fork, ...(change ? [change.from, change.to] : [])].filter(inside);
  const edges = [from, ...cuts.sort((one, other) => one - other), to];
  const made = [];
  for (let index = 1; index < edges.length; index += 1) {
    const [start, end] = [edges[index - 1], edges[index]];
    if (start === end) continue;
    if (start === fork) made.push(element("span", "fork"));
    const node = document.createTextNode(text.slice(start, end));
    const isChanged = change && start >= change.from && end <= change.to;
    made.push(isChanged ? element("mark", "changed", node) : node);
  }
  return made;
}

// A token with its nodes; `shade` is its class.
export function tokenElement(token, shade, nodes) {
  const made = element("span", shade ? `token ${shade}` : "token", ...nodes);
  made.dataset.start = token.start;
  return made;
}

// Text that the member did not write itself.
export function givenElement(nodes) {
  const made = element("ins", "given", ...nodes);
  made.title = "Given to the member; not written by it";
  return made;
}
