// Which models are asked: a box for each that is served, ticked as far as the tier carries them.

// Nobody should mistake these for language models.
const DEMONSTRATION =
  "A demonstration: n-gram models are small statistics of Python's help texts, and no LLMs. Bring your own: council doctor says how.";

export class ModelChoice {
  #root;
  #note;
  #shown = "";
  // What a person decided, also of models that are not served just now.
  #decided = new Map();

  constructor(root, note) {
    this.#root = root;
    this.#note = note;
  }

  // The names that are ticked, in the council's order.
  chosen() {
    return this.#boxes().filter((box) => box.checked).map((box) => box.value);
  }

  // True where a ticked model is remote: whoever ticked it has read that its prompt leaves this machine.
  goesOut() {
    return this.#boxes().some((box) => box.checked && box.dataset.remote !== undefined);
  }

  // True where there are models and the person wants none of them.
  isEmptied() {
    return this.#boxes().length > 0 && this.chosen().length === 0;
  }

  // What is served now. A choice that was made stays; a model that is new is ticked while there is room, unless it is
  // remote: only a person sends a prompt away.
  show({ models, max_parallel_models: most }) {
    const isDemonstration = models.length > 0 && models.every(({ model }) => model.startsWith("ngram:"));
    this.#note.hidden = models.length > 0 && !isDemonstration;
    this.#note.textContent = isDemonstration ? DEMONSTRATION : "No model is served yet.";
    const shown = JSON.stringify(models.map((each) => [each.model, each.remote, each.residency, each.trouble, each.size_bytes]));
    if (shown === this.#shown) return;
    this.#shown = shown;
    for (const box of this.#boxes()) this.#decided.set(box.value, box.checked);
    const ticked = this.#decided;
    let room = most - models.filter((each) => ticked.get(each.model)).length;
    const focused = document.activeElement?.value;
    const chips = models.map((each) => chip(each, ticked.get(each.model) ?? (!each.remote && room-- > 0)));
    for (const old of this.#root.querySelectorAll(".chip")) old.remove();
    this.#note.before(...chips);
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

function chip({ model, remote, residency, size_bytes: size, trouble }, isTicked) {
  const box = document.createElement("input");
  box.type = "checkbox";
  box.name = "models";
  box.value = model;
  box.checked = isTicked;
  const label = document.createElement("label");
  label.className = "chip";
  label.append(box, model);
  if (remote) box.dataset.remote = "";
  const says = [
    remote ? "remote: the prompt leaves this machine" : "",
    residency === "loading" ? "loading…" : residency === "absent" ? "not loaded" : "",
    trouble ?? "",
  ].filter(Boolean);
  if (says.length > 0) {
    const note = document.createElement("small");
    const state = trouble ? "unavailable" : { loading: "loading…", absent: "not loaded" }[residency];
    note.textContent = [remote ? "remote" : "", state ?? ""].filter(Boolean).join(", ");
    label.append(" ", note);
  }
  label.title = [size ? `${(size / 1e9).toFixed(1)} GB` : "", ...says].filter(Boolean).join(" · ");
  return label;
}
