// The page's sentences: its status, errors and notes.

import { byId, setText } from "../elements.js";

export function setStatus(text) {
  setText(byId("status"), text);
}

export const statusText = () => byId("status").textContent;

// Shows a sentence that is not an error.
export function showNote(text) {
  showError(text);
  byId("error").classList.add("note");
}

export function showError(text) {
  byId("error").classList.remove("note");
  byId("error").hidden = !text;
  setText(byId("error"), text);
}
