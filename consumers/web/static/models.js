// Which models are asked: a box for each that is served, ticked as far as the tier carries them.

export class ModelChoice {
  #root;
  #note;
  #shown = "";

  constructor(root, note) {
    this.#root = root;
    this.#note = note;
  }

  // The names that are ticked, in the council's order.
  chosen() {
    return this.#boxes().filter((box) => box.checked).map((box) => box.value);
  }

  // True where there are models and the person wants none of them.
  isEmptied() {
    return this.#boxes().length > 0 && this.chosen().length === 0;
  }

  // What is served now. A choice that was made stays; a model that is new is ticked while there is room.
  show({ models, max_parallel_models: most }) {
    const isEmpty = models.length === 0;
    this.#note.hidden = !isEmpty;
    this.#note.textContent = "No model is served yet.";
    const shown = JSON.stringify(models);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const ticked = new Map(this.#boxes().map((box) => [box.value, box.checked]));
    let room = most - models.filter((model) => ticked.get(model)).length;
    const focused = document.activeElement?.value;
    const chips = models.map((model) => chip(model, ticked.get(model) ?? room-- > 0));
    for (const old of this.#root.querySelectorAll(".chip")) old.remove();
    this.#root.append(...chips);
    this.#boxes().find((box) => box.value === focused)?.focus();
  }

  // The server could not say; what was shown stays.
  miss(why) {
    if (this.#shown && this.#shown !== "[]") return;
    this.#note.hidden = false;
    this.#note.textContent = why;
  }

  #boxes() {
    return [...this.#root.querySelectorAll("input")];
  }
}

function chip(model, isTicked) {
  const box = document.createElement("input");
  box.type = "checkbox";
  box.name = "models";
  box.value = model;
  box.checked = isTicked;
  const label = document.createElement("label");
  label.className = "chip";
  label.append(box, model);
  return label;
}
