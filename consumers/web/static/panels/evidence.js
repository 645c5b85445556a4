// The evidence card: the measured values of the window or token under the pointer.

import { byId, button, element, setText } from "../elements.js";
import { surprisalBits } from "../lanes/shades.js";
import { secondsAt } from "../record/windows.js";
import { evidenceOf, TITLES } from "./metrics.js";

const BESIDE_PX = 18;
const MOST_PIECES = 10;

export class Evidence {
  #card;
  #title = element("h2");
  #body = element("div", "body");
  #isPinned = false;
  #isPointed = false;
  // What a held card adds below the evidence: the choices of a what-if.
  #choices = null;
  #onClose;

  // onClose() when the user closes the card.
  constructor(card, onClose) {
    this.#card = card;
    this.#onClose = onClose;
    card.append(element("header", "", this.#title, button("Close", () => this.#close(), "small")), this.#body);
    addEventListener("keydown", (event) => event.key === "Escape" && !card.hidden && this.#close());
  }

  get isPinned() {
    return this.#isPinned;
  }

  get isHeld() {
    return this.#choices !== null;
  }

  // A pinned card stays open and shows all numbers of the shown window.
  pin(isPinned) {
    this.#isPinned = isPinned;
    if (!isPinned) this.leave();
  }

  // Shows the window under the pointer, which is at [x, y].
  pointAtWindow(track, frame, point) {
    this.#isPointed = true;
    this.#showWindow(track, frame);
    this.#moveTo(point);
  }

  // Shows the shown window's numbers, if the card is pinned and the pointer is on nothing.
  follow(frame) {
    if (!this.#isPinned || this.#isPointed) return;
    this.#showWindow("all", frame);
    this.#moveTo(null);
  }

  // Shows a token or a word, as {title, sentence, rows, pieces, note}; pieces are null while they are fetched.
  pointAtToken({ title, sentence = "", rows, pieces, note }, point) {
    this.#isPointed = true;
    setText(this.#title, title);
    const list = pieces && bars(pieces, this.#choices?.onSay);
    const small = note && element("p", "quiet", note);
    const parts = sentence ? [element("p", "sentence", sentence), list, small, table(rows)] : [table(rows), list, small];
    this.#body.replaceChildren(...parts.filter(Boolean));
    this.#moveTo(point);
  }

  // Keeps the card open, with choices below the evidence: {element, onSay(piece)}; onSay is null if the pieces are no choices.
  hold(choices) {
    this.#choices = choices;
    this.#card.append(choices.element);
    this.#card.classList.add("held");
  }

  // Ends the holding.
  release() {
    this.#choices?.element.remove();
    this.#choices = null;
    this.#card.classList.remove("held");
  }

  // Moves the focus to the first alternative; to the text field if there is none, where it stays once a text is typed.
  focusChoices() {
    if (!this.#choices.element.querySelector("input").value) this.#card.querySelector("button.piece, input").focus();
  }

  leave() {
    this.#isPointed = false;
    if (!this.#isPinned) this.#card.hidden = true;
  }

  #close() {
    // A hidden element must not keep the focus.
    if (!this.isHeld && this.#card.contains(document.activeElement)) byId("pin").focus();
    this.#onClose();
  }

  #showWindow(track, frame) {
    const seconds = secondsAt(frame.window_index).toFixed(2);
    setText(this.#title, `${TITLES[track]} · window ${frame.window_index}, ${seconds} s`);
    this.#body.replaceChildren(table(evidenceOf(track, frame)));
  }

  // Moves the card beside the point; without one, or on a small screen, to the bottom.
  #moveTo(point) {
    const card = this.#card;
    card.hidden = false;
    const isDocked = !point || innerWidth < 640;
    card.classList.toggle("docked", isDocked);
    if (isDocked) {
      card.style.left = card.style.top = "";
      return;
    }
    const { width, height } = card.getBoundingClientRect();
    const [x, y] = point;
    const left = x + BESIDE_PX + width < innerWidth ? x + BESIDE_PX : x - BESIDE_PX - width;
    card.style.left = `${Math.max(8, left)}px`;
    // Above the point if there is room, else below, so that it stays visible.
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

// The pieces with their probabilities; the one that was written is marked. With onSay(piece) each other one is a button.
function bars(pieces, onSay) {
  const list = element("ol", "pieces");
  for (const piece of pieces) {
    const { probability, isWritten } = piece;
    const fill = element("div");
    fill.style.transform = `scaleX(${probability})`;
    const name = onSay && canBeSaid(piece) ? sayButton(piece, onSay) : element("span", "piece", shownPiece(piece));
    const item = element("li", isWritten ? "written" : "", name, element("div", "bar", fill), shownShare(probability));
    if (isWritten) item.append(element("span", "visually-hidden", ", written"));
    list.append(item);
  }
  return list;
}

// The end of the answer and parts of a character cannot be put into a text.
const canBeSaid = ({ text, isWritten }) => !isWritten && text !== "" && !text.includes("\ufffd");

// A text of which only the beginning is known goes on.
const shownPiece = ({ text, isBeginning }) => (text === "" ? "the end" : `${visible(text)}${isBeginning ? "…" : ""}`);

function sayButton(piece, onSay) {
  const made = button(shownPiece(piece), () => onSay(piece), "piece");
  made.setAttribute("aria-label", `What if: ${piece.text.trim() || visible(piece.text)}`);
  return made;
}

export const shownShare = (share) => (share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %");

// The text with visible white space.
export function visible(text) {
  return text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

// A token's evidence: the values of its frame, and those that were fetched.
export function tokenEvidence(text, token, fetched, originNs) {
  const isReal = token.quality === "real" && token.logprob !== null;
  const bits = isReal ? surprisalBits(token.logprob).toFixed(3) : "not measured";
  const rows = [
    { label: "Surprisal", name: "", value: bits, unit: isReal ? "bits" : "" },
    { label: "Log probability", name: "logprob", value: isReal ? String(token.logprob) : "not measured", unit: isReal ? "nats" : "" },
    { label: "Quality", name: "quality", value: token.quality, unit: "" },
    { label: "Position", name: "start, end", value: `${token.start}–${token.end}`, unit: "bytes" },
  ];
  if (!fetched) return { title: visible(text), rows, pieces: null, note: "" };
  const { found, before } = fetched;
  const ms = (found.arrival_ns - Number(originNs)) / 1e6;
  rows.push({ label: "Arrived", name: "arrival_ns", value: (ms / 1e3).toFixed(3), unit: "s" });
  if (before) {
    const since = ((found.arrival_ns - before.arrival_ns) / 1e6).toFixed(1);
    rows.push({ label: "… after the previous token", name: "", value: since, unit: "ms" });
  }
  return { title: visible(text), rows, ...listed(found) };
}

// The most probable pieces of the list, and the probability of all others.
function listed(token) {
  if (token.quality !== "real" || token.top.length === 0) {
    return { pieces: null, note: "The model server sent no alternatives for this token." };
  }
  const pieces = token.top
    .filter((piece) => piece.logprob !== null)
    .map(({ text, logprob }) => ({ text, probability: Math.exp(logprob), isWritten: false }))
    .sort((one, other) => other.probability - one.probability);
  // The written piece may be too improbable to be listed.
  const written = pieces.find((piece) => piece.text === token.text) ?? { text: token.text, probability: Math.exp(token.logprob) };
  written.isWritten = true;
  const shown = pieces.slice(0, MOST_PIECES);
  if (!shown.includes(written)) shown.push(written);
  const rest = Math.max(0, 1 - shown.reduce((sum, piece) => sum + piece.probability, 0));
  return { pieces: shown, note: `${(100 * rest).toFixed(1)} % are for pieces that are not shown; the server listed ${pieces.length}.` };
}
