// A button that copies a text.

import { button, element, setText } from "../elements.js";

const COPIED_MS = 2_000;

export class CopyButton {
  // textOf() returns the text at the click.
  constructor(label, textOf) {
    this.element = button("Copy", async () => {
      const done = await copied(textOf().trim());
      setText(this.element, done ? "Copied" : "Not copied");
      setTimeout(() => setText(this.element, "Copy"), COPIED_MS);
    }, "small");
    this.element.setAttribute("aria-label", label);
  }
}

// Browsers allow the clipboard on secure addresses only; on others the text is selected and copied.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = element("textarea", "visually-hidden");
    box.value = text;
    const focused = document.activeElement;
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    focused?.focus();
    return done;
  }
}
