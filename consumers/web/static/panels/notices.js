// What the page says in a sentence: how it goes, what went wrong, and what a person should know.

import { at, setText } from "../elements.js";

export function setStatus(text) {
  setText(at("status"), text);
}

export const statusText = () => at("status").textContent;

// What a person should know, though nothing went wrong.
export function showNote(text) {
  showError(text);
  at("error").classList.add("note");
}

export function showError(text) {
  at("error").classList.remove("note");
  at("error").hidden = !text;
  setText(at("error"), text);
}
