// Two recordings side by side: their facts, and their first difference.

import { getDifference, getRecording } from "../council/api.js";
import { button, element, setText, shownBytes, shownTime } from "../elements.js";
import { secondsAt } from "../record/windows.js";
import { shownDuration, titleOf } from "./recording.js";

// So much of a value is shown in a sentence.
const MOST_LETTERS = 80;

export class TwoRecordings {
  element = element("dialog", "two");
  #table = element("table");
  #sentence = element("p", "");
  #onPlay;
  #requested = 0;

  // onPlay(recording) when the user plays one of them.
  constructor(onPlay) {
    this.#onPlay = onPlay;
    const heading = element("h2", "", "Two recordings");
    heading.id = "two-recordings";
    this.element.setAttribute("aria-labelledby", heading.id);
    this.#sentence.setAttribute("role", "status");
    const close = button("Close", () => this.element.close(), "plain");
    this.element.append(element("header", "", heading, close), this.#sentence, element("div", "two-facts", this.#table));
  }

  // Throws if one of them does not exist.
  async show(one, other) {
    const requested = ++this.#requested;
    const recordings = await Promise.all([getRecording(one), getRecording(other)]);
    if (requested !== this.#requested) return;
    this.#fill(recordings);
    setText(this.#sentence, "Searching for the first difference…");
    this.element.showModal();
    const sentence = await getDifference(one, other).then(({ difference }) => differenceSentence(difference), (error) => error.message);
    if (requested === this.#requested) setText(this.#sentence, sentence);
  }

  #fill(recordings) {
    const corner = element("td");
    const heads = recordings.map((recording) => {
      const head = element("th", "", element("span", "prompt-start", titleOf(recording)));
      head.scope = "col";
      return head;
    });
    const rows = FACTS.map(([label, factOf]) => {
      const facts = recordings.map((recording) => factOf(recording) || "–");
      const name = element("th", "", label);
      name.scope = "row";
      const differs = !ALWAYS_DIFFER.includes(label) && facts[0] !== facts[1];
      const row = element("tr", differs ? "differs" : "", name, ...facts.map((text) => element("td", "", text)));
      return row;
    });
    const plays = recordings.map((recording) => {
      const play = button("Play", () => {
        this.element.close();
        this.#onPlay(recording);
      }, "plain");
      play.setAttribute("aria-label", `Play: ${titleOf(recording)}, ${shownTime(recording.opened_ms)}`);
      return element("td", "", play);
    });
    this.#table.replaceChildren(
      element("thead", "", element("tr", "", corner, ...heads)),
      element("tbody", "", ...rows, element("tr", "", element("td"), ...plays)),
    );
  }
}

// Facts that differ between any two recordings are not marked.
const ALWAYS_DIFFER = ["Recorded", "File"];

// The number with so many digits after the point; empty if it is unknown.
const number = (value, digits = 2) => (value === null || value === undefined ? "" : value.toFixed(digits));

const FACTS = [
  ["Recorded", ({ opened_ms: openedMs }) => shownTime(openedMs)],
  ["Length", ({ duration_s: duration }) => shownDuration(duration)],
  ["Members", ({ recorded }) => recorded.members.map(({ name, model }) => (name === model ? name : `${name} (${model})`)).join(", ")],
  ["Tokens", ({ members, tokens }) => members.map((name, index) => `${name} ${tokens[index] ?? 0}`).join(", ")],
  ["Final states", ({ members, outcome }) => members.map((name, index) => `${name} ${outcome.states[index] ?? ""}`).join(", ")],
  ["Agreement", ({ mean_agreement: mean }) => number(mean)],
  ["Parted", ({ diverged_at_bytes: byte, outcome }) => (byte === null ? "never" : `at byte ${byte}, after ${shownDuration(secondsAt(outcome.diverged_window))}`)],
  ["Temperature", ({ recorded }) => options(recorded, "temperature")],
  ["Seed", ({ recorded }) => options(recorded, "seed")],
  ["Token limit", ({ recorded }) => options(recorded, "max_tokens")],
  ["System text", ({ recorded }) => recorded.system],
  ["Tier, sync", ({ tier, recorded }) => `${tier}, ${recorded.sync}`],
  ["File", ({ size_bytes: bytes, starred }) => `${shownBytes(bytes)}${starred ? ", starred" : ""}`],
  ["Recorded with", ({ recorded }) => `council ${recorded.council_version}, ${recorded.python}, ${recorded.platform}`],
];

// An option of the session, or each member's if they differ.
function options(recorded, name) {
  const own = recorded.members.map((member) => member[name] ?? recorded[name]);
  return [...new Set(own)].length === 1 ? String(own[0] ?? "none") : own.map((value) => value ?? "none").join(", ");
}

function differenceSentence(difference) {
  if (!difference) return "The requests are the same, and so are all frames.";
  const { window, field, one, other } = difference;
  const values = `${shortened(one)} in the first, ${shortened(other)} in the second`;
  if (window === null) return `The requests differ, first in ${field}: ${values}.`;
  const seconds = secondsAt(window).toFixed(1);
  if (field === "frame") return `The frames are the same until one recording ends, before window ${window}, at ${seconds} s.`;
  return `The frames differ first in window ${window}, at ${seconds} s, in ${field}: ${values}.`;
}

const shortened = (text) => (text === null ? "nothing" : text.length > MOST_LETTERS ? `${text.slice(0, MOST_LETTERS)}…` : text);
