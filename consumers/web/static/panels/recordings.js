// The library: recordings are found, played, starred, compared, taken in and deleted.

import { deleteRecording, getRecordings, importRecording, replayRecording, starRecording } from "../council/api.js";
import { button, element, setText, shownTime } from "../elements.js";
import { recordingItem, titleOf } from "./recording.js";
import { TwoRecordings } from "./two-recordings.js";

const TYPED_MS = 250;
const EMPTY = "No recording yet: keep a session, or drop a file here.";

export class Recordings {
  #panel;
  #onOpen;
  #search = element("input");
  #file = element("input");
  #note = element("p", "quiet");
  #error = element("p", "notice");
  #list = element("ul");
  #more = button("Show more", () => this.#load(true), "plain");
  #compare = button("Compare two", () => this.#compareTwo(), "plain");
  #two;
  #question = new Question();
  #shown = [];
  // The names of those that are chosen, the one chosen first at the front.
  #chosen = [];
  #hasMore = false;
  #asked = 0;
  #timer = 0;

  // onOpen(session) where a recording is played.
  constructor(panel, onOpen) {
    [this.#panel, this.#onOpen] = [panel, onOpen];
    this.#two = new TwoRecordings((recording) => this.#play(recording));
    this.#search.type = "search";
    this.#search.placeholder = "Words of the question, a member …";
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
    const take = button("Import…", () => this.#file.click(), "plain");
    panel.append(
      element("h2", "", "Recordings"),
      element("div", "library-head", this.#search, this.#compare, take, this.#file),
      this.#error, this.#note, this.#list, this.#more, this.#two.element, this.#question.element,
    );
    this.#tell("");
    this.#showChosen();
    panel.addEventListener("toggle", (event) => event.newState === "open" && this.#load(false));
    this.#listenForFiles();
  }

  // The list from its beginning, or what comes after what is shown.
  async #load(isMore) {
    const asked = ++this.#asked;
    this.#fail("");
    try {
      const after = isMore ? this.#shown.at(-1)?.name : "";
      const { recordings, next } = await getRecordings(this.#search.value, after);
      // Something else was typed meanwhile.
      if (asked !== this.#asked) return;
      const known = this.#list.children.length;
      this.#shown = isMore ? [...this.#shown, ...recordings] : recordings;
      this.#hasMore = next !== null;
      if (isMore) this.#list.append(...recordings.map((recording) => this.#item(recording)));
      else this.#list.replaceChildren(...recordings.map((recording) => this.#item(recording)));
      if (isMore) this.#list.children[known]?.querySelector("button")?.focus();
      this.#tellNumber();
    } catch (error) {
      if (asked === this.#asked) this.#fail(error.message);
    }
  }

  #tellNumber() {
    this.#more.hidden = !this.#hasMore;
    const words = this.#search.value.trim();
    const found = `${this.#shown.length}${this.#hasMore ? " and more" : ""}`;
    if (this.#shown.length === 0) this.#tell(words ? "No recording has these words." : EMPTY);
    else this.#tell(words ? `${found} with these words` : "");
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
    this.#fail("");
    try {
      const { session } = await replayRecording(name, { frames: text === false });
      this.#panel.hidePopover();
      this.#onOpen(session);
    } catch (error) {
      this.#fail(error.message);
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
      this.#fail(error.message);
    }
  }

  async #delete(recording, item) {
    const when = recording.opened_ms === null ? "" : ` of ${shownTime(recording.opened_ms)}`;
    const asked = `Delete the recording “${titleOf(recording)}”${when}? The file is gone then.`;
    if (!(await this.#question.ask(asked, "Delete"))) return;
    try {
      await deleteRecording(recording.name);
      const next = item.nextElementSibling ?? item.previousElementSibling;
      item.remove();
      this.#shown = this.#shown.filter((each) => each.name !== recording.name);
      this.#choose(recording.name, false);
      (next?.querySelector("button") ?? this.#search).focus();
      this.#tellNumber();
      if (this.#shown.length === 0 && this.#hasMore) this.#load(false);
    } catch (error) {
      this.#fail(error.message);
    }
  }

  // --- comparing ---

  #choose(name, isChosen) {
    this.#chosen = this.#chosen.filter((each) => each !== name);
    if (isChosen) this.#chosen.push(name);
    // Of three the one that was chosen first gives way.
    if (this.#chosen.length > 2) this.#chosen.shift();
    for (const item of this.#list.children) {
      const box = item.querySelector("[type=checkbox]");
      if (box) box.checked = this.#chosen.includes(item.dataset.name);
    }
    this.#showChosen();
  }

  #showChosen() {
    this.#compare.setAttribute("aria-disabled", String(this.#chosen.length !== 2));
    this.#compare.title = this.#chosen.length === 2 ? "" : "Choose two recordings first";
  }

  async #compareTwo() {
    if (this.#chosen.length !== 2) {
      this.#tell("Choose two recordings to compare.");
      return;
    }
    this.#fail("");
    try {
      await this.#two.show(...this.#chosen);
    } catch (error) {
      this.#fail(error.message);
    }
  }

  // --- taking files in ---

  #listenForFiles() {
    const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
    // A file that misses the panel is not opened in place of the page.
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
    this.#fail("");
    const [taken, refused] = [[], []];
    for (const file of files) {
      this.#tell(`Taking in ${file.name}…`);
      try {
        taken.push(await importRecording(file));
      } catch (error) {
        refused.push(`${file.name}: ${error.message}`);
      }
    }
    if (taken.length > 0) {
      this.#search.value = "";
      await this.#load(false);
    }
    this.#fail(refused.join(" "));
    if (taken.length > 0) this.#tell(`Taken in: ${taken.map((each) => each.name).join(", ")}.`);
    else this.#tellNumber();
  }

  #tell(text) {
    setText(this.#note, text);
  }

  #fail(text) {
    this.#error.hidden = !text;
    setText(this.#error, text);
  }
}

// A question that stands in the way until it is answered.
class Question {
  element = element("dialog", "question-box");
  #text = element("p", "");
  #yes = button("", () => this.element.close("yes"));

  constructor() {
    const no = button("Leave it", () => this.element.close("no"), "plain");
    no.autofocus = true;
    this.#text.id = "library-question";
    this.element.setAttribute("aria-labelledby", this.#text.id);
    this.element.append(this.#text, element("div", "actions", no, this.#yes));
  }

  // True where the answer is yes.
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
