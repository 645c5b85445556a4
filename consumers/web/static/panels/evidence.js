// The evidence: what was measured for whatever a person points at, as it came.

import { at, button, element, setText } from "../elements.js";
import { surprisalBits } from "../lanes/text.js";
import { evidenceOf, TITLES } from "./metrics.js";

const WINDOWS_A_SECOND = 60;
const BESIDE_PX = 18;
const MOST_PIECES = 10;

export class Evidence {
  #card;
  #title = element("h2");
  #body = element("div", "body");
  #isPinned = false;
  #isPointed = false;
  #onClose;

  // onClose() when a person closes it.
  constructor(card, onClose) {
    this.#card = card;
    this.#onClose = onClose;
    card.append(element("header", "", this.#title, button("Close", () => this.#close(), "small")), this.#body);
    addEventListener("keydown", (event) => event.key === "Escape" && !card.hidden && this.#close());
  }

  get isPinned() {
    return this.#isPinned;
  }

  // Pinned it stays, and shows every number of the window that is looked at.
  pin(isPinned) {
    this.#isPinned = isPinned;
    if (!isPinned) this.leave();
  }

  // A window under the pointer at [x, y].
  pointAtWindow(track, frame, place) {
    this.#isPointed = true;
    this.#showWindow(track, frame);
    this.#put(place);
  }

  // The window that is looked at, where it is pinned and nothing is pointed at.
  follow(frame) {
    if (!this.#isPinned || this.#isPointed) return;
    this.#showWindow("all", frame);
    this.#put(null);
  }

  // A token, as {title, rows, pieces or null while they are fetched, note}.
  pointAtToken({ title, rows, pieces, note }, place) {
    this.#isPointed = true;
    setText(this.#title, title);
    this.#body.replaceChildren(table(rows));
    if (pieces) this.#body.append(bars(pieces));
    if (note) this.#body.append(element("p", "quiet", note));
    this.#put(place);
  }

  leave() {
    this.#isPointed = false;
    if (!this.#isPinned) this.#card.hidden = true;
  }

  #close() {
    // The focus does not go with it.
    if (this.#card.contains(document.activeElement)) at("pin").focus();
    this.pin(false);
    this.#onClose();
  }

  #showWindow(track, frame) {
    const seconds = ((frame.window_index + 1) / WINDOWS_A_SECOND).toFixed(2);
    setText(this.#title, `${TITLES[track]} · window ${frame.window_index}, ${seconds} s`);
    this.#body.replaceChildren(table(evidenceOf(track, frame)));
  }

  // Beside the pointer, where there is room; without a place, or on a small screen, at the bottom.
  #put(place) {
    const card = this.#card;
    card.hidden = false;
    const isDocked = !place || innerWidth < 640;
    card.classList.toggle("docked", isDocked);
    if (isDocked) {
      card.style.left = card.style.top = "";
      return;
    }
    const { width, height } = card.getBoundingClientRect();
    const [x, y] = place;
    const left = x + BESIDE_PX + width < innerWidth ? x + BESIDE_PX : x - BESIDE_PX - width;
    card.style.left = `${Math.max(8, left)}px`;
    // Where there is room above or below, what is pointed at stays in sight.
    const isAbove = y - BESIDE_PX - height > 8;
    const top = isAbove ? y - BESIDE_PX - height : Math.min(y + BESIDE_PX, innerHeight - height - 8);
    card.style.top = `${Math.max(8, top)}px`;
  }
}

function table(rows) {
  const body = element("tbody");
  for (const { label, name, value, unit } of rows) {
    const head = element("th", "", label);
    head.scope = "row";
    if (name) head.append(" ", element("code", "", name));
    body.append(element("tr", "", head, element("td", "", value), element("td", "unit", unit)));
  }
  return element("table", "", body);
}

// The listed pieces with their probabilities; the one that was said is marked.
function bars(pieces) {
  const list = element("ol", "pieces");
  for (const { text, probability, isSaid } of pieces) {
    const fill = element("div");
    fill.style.transform = `scaleX(${probability})`;
    const share = probability >= 0.0005 ? `${(100 * probability).toFixed(1)} %` : "< 0.1 %";
    const item = element("li", isSaid ? "said" : "", element("span", "piece", visible(text)), element("div", "bar", fill), share);
    if (isSaid) item.append(element("span", "visually-hidden", ", said"));
    list.append(item);
  }
  return list;
}

// White space that can be seen.
export function visible(text) {
  return text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

// What is known of a token: of what its frame said, and of what was fetched since.
export function tokenEvidence(text, token, fetched, originNs) {
  const isReal = token.quality === "real" && token.logprob !== null;
  const bits = isReal ? surprisalBits(token.logprob).toFixed(3) : "not measured";
  const rows = [
    { label: "Surprisal", name: "", value: bits, unit: isReal ? "bits" : "" },
    { label: "Log probability", name: "logprob", value: isReal ? String(token.logprob) : "not measured", unit: isReal ? "nats" : "" },
    { label: "Quality", name: "quality", value: token.quality, unit: "" },
    { label: "Place", name: "start, end", value: `${token.start}–${token.end}`, unit: "bytes" },
  ];
  if (!fetched) return { title: visible(text), rows, pieces: null, note: "" };
  const { found, before } = fetched;
  const ms = (found.arrival_ns - Number(originNs)) / 1e6;
  rows.push({ label: "Arrived", name: "arrival_ns", value: (ms / 1e3).toFixed(3), unit: "s" });
  if (before) {
    const since = ((found.arrival_ns - before.arrival_ns) / 1e6).toFixed(1);
    rows.push({ label: "… after the one before", name: "", value: since, unit: "ms" });
  }
  return { title: visible(text), rows, ...listed(found) };
}

// The likeliest of the list, and how much it leaves out.
function listed(token) {
  if (token.quality !== "real" || token.top.length === 0) {
    return { pieces: null, note: "The model server sent no list of what else it thought of." };
  }
  const pieces = token.top
    .filter((piece) => piece.logprob !== null)
    .map(({ text, logprob }) => ({ text, probability: Math.exp(logprob), isSaid: false }))
    .sort((one, other) => other.probability - one.probability);
  // What was said may be too unlikely to be listed.
  const said = pieces.find((piece) => piece.text === token.text) ?? { text: token.text, probability: Math.exp(token.logprob) };
  said.isSaid = true;
  const shown = pieces.slice(0, MOST_PIECES);
  if (!shown.includes(said)) shown.push(said);
  const rest = Math.max(0, 1 - shown.reduce((sum, piece) => sum + piece.probability, 0));
  return { pieces: shown, note: `${(100 * rest).toFixed(1)} % are for what is not shown, of ${pieces.length} listed.` };
}
