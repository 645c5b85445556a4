// Two recordings side by side: what they are, and where they differ first.

import { getDifference, getRecording } from "../council/api.js";
import { button, element, setText, shownBytes, shownTime } from "../elements.js";
import { shownDuration, titleOf } from "./recording.js";

const WINDOWS_A_SECOND = 60;
// As much of a value as a sentence bears.
const MOST_LETTERS = 80;

export class TwoRecordings {
  element = element("dialog", "two");
  #table = element("table");
  #sentence = element("p", "");
  #onPlay;
  #asked = 0;

  // onPlay(recording) where a person wants to see one of them.
  constructor(onPlay) {
    this.#onPlay = onPlay;
    const heading = element("h2", "", "Two recordings");
    heading.id = "two-recordings";
    this.element.setAttribute("aria-labelledby", heading.id);
    this.#sentence.setAttribute("role", "status");
    const close = button("Close", () => this.element.close(), "plain");
    this.element.append(element("header", "", heading, close), this.#sentence, element("div", "two-facts", this.#table));
  }

  // Throws where one of them is gone.
  async show(one, other) {
    const asked = ++this.#asked;
    const recordings = await Promise.all([getRecording(one), getRecording(other)]);
    if (asked !== this.#asked) return;
    this.#fill(recordings);
    setText(this.#sentence, "Looking for the first difference…");
    this.element.showModal();
    const said = await getDifference(one, other).then(({ difference }) => differenceSentence(difference), (error) => error.message);
    if (asked === this.#asked) setText(this.#sentence, said);
  }

  #fill(recordings) {
    const corner = element("td");
    const heads = recordings.map((recording) => {
      const head = element("th", "", element("span", "asked", titleOf(recording)));
      head.scope = "col";
      return head;
    });
    const rows = FACTS.map(([label, factOf]) => {
      const said = recordings.map((recording) => factOf(recording) || "–");
      const name = element("th", "", label);
      name.scope = "row";
      const differs = !ALWAYS_DIFFER.includes(label) && said[0] !== said[1];
      const row = element("tr", differs ? "differs" : "", name, ...said.map((text) => element("td", "", text)));
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

// What any two recordings do not share is no news.
const ALWAYS_DIFFER = ["Recorded", "File"];

// A number that is known, with so many digits after the point.
const number = (value, digits = 2) => (value === null || value === undefined ? "" : value.toFixed(digits));

const FACTS = [
  ["Recorded", ({ opened_ms: openedMs }) => shownTime(openedMs)],
  ["Length", ({ duration_s: duration }) => shownDuration(duration)],
  ["Members", ({ recorded }) => recorded.members.map(({ name, model }) => (name === model ? name : `${name} (${model})`)).join(", ")],
  ["Tokens", ({ members, tokens }) => members.map((name, index) => `${name} ${tokens[index] ?? 0}`).join(", ")],
  ["At the end", ({ members, outcome }) => members.map((name, index) => `${name} ${outcome.states[index] ?? ""}`).join(", ")],
  ["Agreement", ({ mean_agreement: mean }) => number(mean)],
  ["Parted", ({ diverged_at_bytes: byte, outcome }) => (byte === null ? "never" : `at byte ${byte}, after ${shownDuration((outcome.diverged_window + 1) / WINDOWS_A_SECOND)}`)],
  ["Temperature", ({ recorded }) => options(recorded, "temperature")],
  ["Seed", ({ recorded }) => options(recorded, "seed")],
  ["Most tokens", ({ recorded }) => options(recorded, "max_tokens")],
  ["System text", ({ recorded }) => recorded.system],
  ["Tier, sync", ({ tier, recorded }) => `${tier}, ${recorded.sync}`],
  ["File", ({ size_bytes: bytes, starred }) => `${shownBytes(bytes)}${starred ? ", starred" : ""}`],
  ["Recorded with", ({ recorded }) => `council ${recorded.council_version}, ${recorded.python}, ${recorded.platform}`],
];

// An option of the session, or of each member where they differ.
function options(recorded, name) {
  const own = recorded.members.map((member) => member[name] ?? recorded[name]);
  return [...new Set(own)].length === 1 ? String(own[0] ?? "none") : own.map((value) => value ?? "none").join(", ");
}

function differenceSentence(difference) {
  if (!difference) return "The same was asked, and their frames are the same, from the first to the last.";
  const { window, field, one, other } = difference;
  const values = `${shortened(one)} in the first, ${shortened(other)} in the second`;
  if (window === null) return `They differ in what was asked, first in ${field}: ${values}.`;
  const seconds = ((window + 1) / WINDOWS_A_SECOND).toFixed(1);
  if (field === "frame") return `They are the same until one of them ends: before window ${window}, at ${seconds} s.`;
  return `They differ first in window ${window}, at ${seconds} s, in ${field}: ${values}.`;
}

const shortened = (text) => (text === null ? "nothing" : text.length > MOST_LETTERS ? `${text.slice(0, MOST_LETTERS)}…` : text);
