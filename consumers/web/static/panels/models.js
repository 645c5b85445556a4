// Who is asked: a box for each member that the council has by name and for each model that is served, ticked as far as
// the tier carries them.

// Nobody should mistake these for language models.
const DEMONSTRATION =
  "A demonstration: n-gram models are small statistics of Python's help texts, and no LLMs. Bring your own: council doctor says how.";

export class ModelChoice {
  #root;
  #note;
  #shown = "";
  // What a person decided, also of members that are not served just now.
  #decided = new Map();

  constructor(root, note) {
    this.#root = root;
    this.#note = note;
  }

  // The names that are ticked, in the council's order.
  chosen() {
    return this.#boxes().filter((box) => box.checked).map((box) => box.value);
  }

  // True where a ticked member is remote: the person who ticked it has read that its prompt leaves this machine.
  goesOut() {
    return this.#boxes().some((box) => box.checked && box.dataset.remote !== undefined);
  }

  // True where there are members and the person wants none of them.
  isEmptied() {
    return this.#boxes().length > 0 && this.chosen().length === 0;
  }

  // What is served now. A choice that was made stays. Of what is new the council's own members are ticked while there is
  // room, or the models where it has none; never a remote one: only a person sends a prompt away.
  show({ models, members, max_parallel_models: most }) {
    const isDemonstration = models.length > 0 && models.every(({ model }) => model.startsWith("ngram:"));
    this.#note.hidden = models.length > 0 && !isDemonstration;
    this.#note.textContent = isDemonstration ? DEMONSTRATION : "No model is served yet.";
    const offers = offered(models, members);
    const shown = JSON.stringify(offers);
    if (shown === this.#shown) return;
    this.#shown = shown;
    for (const box of this.#boxes()) this.#decided.set(box.value, box.checked);
    const ticked = this.#decided;
    let room = most - offers.filter((each) => ticked.get(each.name)).length;
    const focused = document.activeElement?.value;
    const chips = offers.map((each) => chip(each, ticked.get(each.name) ?? (each.isOwn && !each.remote && room-- > 0)));
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

// What can be ticked: the council's own members, each with what is known of its model, then the models by themselves.
function offered(models, members) {
  const known = new Map(models.map(({ model, remote, residency, size_bytes: size, trouble }) => [model, { remote, residency, size, trouble }]));
  const own = members.filter(({ model }) => known.has(model));
  return [
    ...own.map((member) => ({ ...known.get(member.model), name: member.name, isOwn: true, asked: askedFor(member) })),
    ...models
      .filter(({ model }) => !own.some(({ name }) => name === model))
      .map(({ model }) => ({ ...known.get(model), name: model, isOwn: own.length === 0, asked: "" })),
  ];
}

// What a member alone is asked for, in words.
function askedFor({ name, model, temperature, seed, max_tokens: tokens, system }) {
  return [
    name === model ? "" : model,
    temperature === null ? "" : `temperature ${temperature}`,
    seed === null ? "" : `seed ${seed}`,
    tokens === null ? "" : `at most ${tokens} tokens`,
    system === null ? "" : `system text: ${system}`,
  ].filter(Boolean).join(", ");
}

function chip({ name, asked, remote, residency, size, trouble }, isTicked) {
  const box = document.createElement("input");
  box.type = "checkbox";
  box.name = "models";
  box.value = name;
  box.checked = isTicked;
  const label = document.createElement("label");
  label.className = "chip";
  label.append(box, name);
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
  label.title = [asked, size ? `${(size / 1e9).toFixed(1)} GB` : "", ...says].filter(Boolean).join(" · ");
  return label;
}
