// The choice of members: a check box for each member of the council's settings and for each model that is served, checked up
// to the tier's limit.

// These must not be mistaken for language models.
const DEMONSTRATION =
  "Demonstration: n-gram models are small statistics of Python's help texts, not LLMs. Run council doctor to see how to add models.";

export class ModelChoice {
  #root;
  #note;
  #shown = "";
  // The user's choices, also for members that are not served at the moment.
  #decided = new Map();

  constructor(root, note) {
    this.#root = root;
    this.#note = note;
  }

  // The checked names, in the council's order.
  chosen() {
    return this.#boxes().filter((box) => box.checked).map((box) => box.value);
  }

  // True if a checked member is remote: its label says that the prompt leaves this machine.
  includesRemote() {
    return this.#boxes().some((box) => box.checked && box.dataset.remote !== undefined);
  }

  // True if there are members and none is checked.
  isEmpty() {
    return this.#boxes().length > 0 && this.chosen().length === 0;
  }

  // Shows what is served now. The user's choices stay. Of new ones, the members of the settings are checked up to the limit,
  // or the models if there are no such members; never a remote one: only the user may send a prompt away.
  show({ models, members, max_parallel_models: most }) {
    const isDemonstration = models.length > 0 && models.every(({ model }) => model.startsWith("ngram:"));
    this.#note.hidden = models.length > 0 && !isDemonstration;
    this.#note.textContent = isDemonstration ? DEMONSTRATION : "No model is available yet.";
    const offers = offered(models, members);
    const failures = newestOfEachServer(models);
    const shown = JSON.stringify([offers, failures]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    for (const box of this.#boxes()) this.#decided.set(box.value, box.checked);
    const decided = this.#decided;
    let room = most - offers.filter((each) => decided.get(each.name)).length;
    const focused = document.activeElement?.value;
    const chips = offers.map((each) => chip(each, decided.get(each.name) ?? (each.isOwn && !each.remote && room-- > 0)));
    for (const old of this.#root.querySelectorAll(".chip, .failure")) old.remove();
    this.#note.before(...chips);
    this.#note.after(...failures.map(failureLine));
    this.#boxes().find((box) => box.value === focused)?.focus();
  }

  // The models could not be read: the message is shown unless there are members already.
  showError(message) {
    if (this.#boxes().length > 0) return;
    this.#note.hidden = false;
    this.#note.textContent = message;
  }

  #boxes() {
    return [...this.#root.querySelectorAll("input")];
  }
}

// The choices: the members of the settings, each with the facts of its model, then the models themselves.
function offered(models, members) {
  const known = new Map(models.map(({ model, remote, residency, size_bytes: size, trouble }) => [model, { remote, residency, size, trouble }]));
  const own = members.filter(({ model }) => known.has(model));
  return [
    ...own.map((member) => ({ ...known.get(member.model), name: member.name, isOwn: true, options: optionsOf(member) })),
    ...models
      .filter(({ model }) => !own.some(({ name }) => name === model))
      .map(({ model }) => ({ ...known.get(model), name: model, isOwn: own.length === 0, options: "" })),
  ];
}

// The last failure of each server, the newest first.
function newestOfEachServer(models) {
  const newest = new Map();
  for (const { server, last_failure: failure } of models) {
    if (failure && !(newest.get(server)?.failed_ms >= failure.failed_ms)) newest.set(server, failure);
  }
  return [...newest.values()].sort((one, other) => other.failed_ms - one.failed_ms);
}

function failureLine({ reason, failed_ms: at }) {
  const line = document.createElement("p");
  line.className = "failure";
  line.textContent = `Last failure, ${new Date(at).toLocaleTimeString()}: ${reason}`;
  return line;
}

// A member's own options, as text.
function optionsOf({ name, model, temperature, seed, max_tokens: tokens, system }) {
  return [
    name === model ? "" : model,
    temperature === null ? "" : `temperature ${temperature}`,
    seed === null ? "" : `seed ${seed}`,
    tokens === null ? "" : `at most ${tokens} tokens`,
    system === null ? "" : `system text: ${system}`,
  ].filter(Boolean).join(", ");
}

function chip({ name, options, remote, residency, size, trouble }, isChecked) {
  const box = document.createElement("input");
  box.type = "checkbox";
  box.name = "models";
  box.value = name;
  box.checked = isChecked;
  const label = document.createElement("label");
  label.className = "chip";
  label.append(box, name);
  if (remote) box.dataset.remote = "";
  const notes = [
    remote ? "remote: the prompt leaves this machine" : "",
    residency === "loading" ? "loading…" : residency === "absent" ? "not loaded" : "",
    trouble ?? "",
  ].filter(Boolean);
  if (notes.length > 0) {
    const note = document.createElement("small");
    const state = trouble ? "unavailable" : { loading: "loading…", absent: "not loaded" }[residency];
    note.textContent = [remote ? "remote" : "", state ?? ""].filter(Boolean).join(", ");
    label.append(" ", note);
  }
  label.title = [options, size ? `${(size / 1e9).toFixed(1)} GB` : "", ...notes].filter(Boolean).join(" · ");
  return label;
}
