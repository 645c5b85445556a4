// The library: the list of recordings, with search, play, star, compare, import and delete.

import { deleteRecording, getRecordings, importRecording, replayRecording, starRecording } from "../council/api.js";
import { button, element, setText, shownTime } from "../elements.js";
import { recordingItem, titleOf } from "./recording.js";
import { TwoRecordings } from "./two-recordings.js";

const TYPED_MS = 250;
const EMPTY = "No recordings yet: keep a session, or drop a file here.";

export class Recordings {
  #panel;
  #onOpen;
  #search = element("input");
  #file = element("input");
  #note = element("p", "quiet");
  #error = element("p", "notice");
  #list = element("ul");
  #more = button("Show more", () => this.#load(true), "plain");
  #compare = button("Compare recordings", () => this.#compareTwo(), "plain");
  #two;
  #confirmation = new Confirmation();
  #shown = [];
  // The names of the selected recordings, in the order of selection.
  #chosen = [];
  #hasMore = false;
  #requested = 0;
  #timer = 0;

  // onOpen(session) after a replay was opened.
  constructor(panel, onOpen) {
    [this.#panel, this.#onOpen] = [panel, onOpen];
    this.#two = new TwoRecordings((recording) => this.#play(recording));
    this.#search.type = "search";
    this.#search.placeholder = "Words of the prompt, member, file";
    this.#search.setAttribute("aria-label", "Search the recordings");
    this.#search.maxLength = 200;
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#load(false), TYPED_MS);
    });
    this.#file.type = "file";
    this.#file.accept = ".mcap";
    this.#file.multiple = true;
    this.#file.hidden = true;
    this.#file.addEventListener("change", () => {
      this.#import([...this.#file.files]);
      this.#file.value = "";
    });
    [this.#note.id, this.#error.id] = ["library-note", "library-error"];
    this.#note.setAttribute("role", "status");
    this.#error.setAttribute("role", "alert");
    const importing = button("Import…", () => this.#file.click(), "plain");
    panel.append(
      element("h2", "", "Recordings"),
      element("div", "library-head", this.#search, this.#compare, importing, this.#file),
      this.#error, this.#note, this.#list, this.#more, this.#two.element, this.#confirmation.element,
    );
    this.#showNote("");
    this.#showChosen();
    panel.addEventListener("toggle", (event) => event.newState === "open" && this.#load(false));
    this.#listenForFiles();
  }

  // Loads the list from its beginning, or the page after the shown ones.
  async #load(isMore) {
    const requested = ++this.#requested;
    this.#showError("");
    try {
      const after = isMore ? this.#shown.at(-1)?.name : "";
      const { recordings, next } = await getRecordings(this.#search.value, after);
      // The search has changed meanwhile.
      if (requested !== this.#requested) return;
      const known = this.#list.children.length;
      this.#shown = isMore ? [...this.#shown, ...recordings] : recordings;
      this.#hasMore = next !== null;
      if (isMore) this.#list.append(...recordings.map((recording) => this.#item(recording)));
      else this.#list.replaceChildren(...recordings.map((recording) => this.#item(recording)));
      if (isMore) this.#list.children[known]?.querySelector("button")?.focus();
      this.#showCount();
    } catch (error) {
      if (requested === this.#requested) this.#showError(error.message);
    }
  }

  #showCount() {
    this.#more.hidden = !this.#hasMore;
    const words = this.#search.value.trim();
    const found = `${this.#shown.length}${this.#hasMore ? " and more" : ""}`;
    if (this.#shown.length === 0) this.#showNote(words ? "No recording contains these words." : EMPTY);
    else this.#showNote(words ? `${found} found` : "");
  }

  #item(recording) {
    const { name } = recording;
    const item = recordingItem(recording, this.#chosen.includes(name), {
      onPlay: () => this.#play(recording),
      onChoose: (isChosen) => this.#choose(name, isChosen),
      onStar: (isStarred) => this.#star(recording, isStarred, item),
      onDelete: () => this.#delete(recording, item),
    });
    item.dataset.name = name;
    return item;
  }

  async #play({ name, text }) {
    this.#showError("");
    try {
      const { session } = await replayRecording(name, { frames: text === false });
      this.#panel.hidePopover();
      this.#onOpen(session);
    } catch (error) {
      this.#showError(error.message);
    }
  }

  async #star(recording, isStarred, item) {
    try {
      const starred = await starRecording(recording.name, isStarred);
      const hadFocus = item.contains(document.activeElement);
      const made = this.#item(starred);
      this.#shown = this.#shown.map((each) => (each.name === starred.name ? starred : each));
      item.replaceWith(made);
      if (hadFocus) made.querySelector("[aria-pressed]").focus();
    } catch (error) {
      this.#showError(error.message);
    }
  }

  async #delete(recording, item) {
    const when = recording.opened_ms === null ? "" : ` of ${shownTime(recording.opened_ms)}`;
    const question = `Delete the recording “${titleOf(recording)}”${when}? The file cannot be restored.`;
    if (!(await this.#confirmation.ask(question, "Delete"))) return;
    try {
      await deleteRecording(recording.name);
      const next = item.nextElementSibling ?? item.previousElementSibling;
      item.remove();
      this.#shown = this.#shown.filter((each) => each.name !== recording.name);
      this.#choose(recording.name, false);
      (next?.querySelector("button") ?? this.#search).focus();
      this.#showCount();
      if (this.#shown.length === 0 && this.#hasMore) this.#load(false);
    } catch (error) {
      this.#showError(error.message);
    }
  }

  // --- comparing ---

  #choose(name, isChosen) {
    this.#chosen = this.#chosen.filter((each) => each !== name);
    if (isChosen) this.#chosen.push(name);
    // With a third selection the first one ends.
    if (this.#chosen.length > 2) this.#chosen.shift();
    for (const item of this.#list.children) {
      const box = item.querySelector("[type=checkbox]");
      if (box) box.checked = this.#chosen.includes(item.dataset.name);
    }
    this.#showChosen();
  }

  #showChosen() {
    this.#compare.setAttribute("aria-disabled", String(this.#chosen.length !== 2));
    this.#compare.title = this.#chosen.length === 2 ? "" : "Select two recordings first";
  }

  async #compareTwo() {
    if (this.#chosen.length !== 2) {
      this.#showNote("Select two recordings to compare.");
      return;
    }
    this.#showError("");
    try {
      await this.#two.show(...this.#chosen);
    } catch (error) {
      this.#showError(error.message);
    }
  }

  // --- importing files ---

  #listenForFiles() {
    const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
    // Without this the browser would open a file that is dropped beside the panel.
    for (const name of ["dragover", "drop"]) addEventListener(name, (event) => holdsFiles(event) && event.preventDefault());
    const mark = (isOver) => this.#panel.classList.toggle("is-dropped-on", isOver);
    this.#panel.addEventListener("dragover", (event) => mark(holdsFiles(event)));
    this.#panel.addEventListener("dragleave", (event) => this.#panel.contains(event.relatedTarget) || mark(false));
    this.#panel.addEventListener("drop", (event) => {
      mark(false);
      if (holdsFiles(event)) this.#import([...event.dataTransfer.files]);
    });
  }

  async #import(files) {
    this.#showError("");
    const [imported, refused] = [[], []];
    for (const file of files) {
      this.#showNote(`Importing ${file.name}…`);
      try {
        imported.push(await importRecording(file));
      } catch (error) {
        refused.push(`${file.name}: ${error.message}`);
      }
    }
    if (imported.length > 0) {
      this.#search.value = "";
      await this.#load(false);
    }
    this.#showError(refused.join(" "));
    if (imported.length > 0) this.#showNote(`Imported: ${imported.map((each) => each.name).join(", ")}.`);
    else this.#showCount();
  }

  #showNote(text) {
    setText(this.#note, text);
  }

  #showError(text) {
    this.#error.hidden = !text;
    setText(this.#error, text);
  }
}

// A modal dialog that asks for a confirmation.
class Confirmation {
  element = element("dialog", "question-box");
  #text = element("p", "");
  #yes = button("", () => this.element.close("yes"));

  constructor() {
    const no = button("Cancel", () => this.element.close("no"), "plain");
    no.autofocus = true;
    this.#text.id = "library-question";
    this.element.setAttribute("aria-labelledby", this.#text.id);
    this.element.append(this.#text, element("div", "actions", no, this.#yes));
  }

  // Resolves to true if the user confirms.
  ask(text, yes) {
    setText(this.#text, text);
    setText(this.#yes, yes);
    this.element.returnValue = "no";
    this.element.showModal();
    return new Promise((resolve) => {
      this.element.addEventListener("close", () => resolve(this.element.returnValue === "yes"), { once: true });
    });
  }
}
