// A lane for each member: what it is called, how it fares, and its text as it grows.
// What a model wrote is text and nothing else: it only ever becomes the data of a text node.

import { colourNameOf, shapeIcon } from "./marks.js";

// A reader who has scrolled up by more than this is reading there: the lane then stays where it is.
const NEAR_END_PX = 32;

export class Lanes {
  #root;
  #lanes = [];

  constructor(root) {
    this.#root = root;
  }

  // The members of a new session; what was shown before is gone.
  show(models) {
    this.#lanes = models.map((model, index) => new Lane(model, index));
    this.#root.replaceChildren(...this.#lanes.map((lane) => lane.element));
  }

  // What the members have said so far, in place of what is shown.
  begin(members) {
    members.forEach((member, index) => this.#lanes[index].begin(member));
  }

  // Keeps what a frame says; draw() shows it.
  add(frame) {
    frame.members.forEach((member, index) => this.#lanes[index].add(member));
  }

  draw(withNumbers) {
    for (const lane of this.#lanes) lane.draw(withNumbers);
  }
}

class Lane {
  #member = null;
  #answer;
  #thinking;
  #details;
  #pace = element("span", "pace");
  #state = element("p", "state");
  #bar = element("div", "bar");
  #fill = element("div");

  constructor(model, index) {
    const heading = element("h2");
    heading.id = `member-${index + 1}`;
    const number = element("span");
    number.textContent = `${index + 1} `;
    heading.append(number, model);

    this.#bar.append(this.#fill);
    this.#bar.setAttribute("role", "meter");
    this.#bar.setAttribute("aria-label", "Energy");
    this.#bar.setAttribute("aria-valuemin", "0");
    this.#bar.setAttribute("aria-valuemax", "1");

    const header = element("header");
    header.append(shapeIcon(index), heading, this.#pace);
    this.#answer = new GrowingText(`Answer of ${model}`);
    this.#thinking = new GrowingText(`Thinking of ${model}`);
    const summary = element("summary");
    summary.textContent = "Thinking";
    this.#details = element("details");
    this.#details.hidden = true;
    this.#details.append(summary, this.#thinking.element);

    this.element = element("article", "lane");
    this.element.setAttribute("aria-labelledby", heading.id);
    this.element.style.setProperty("--colour", `var(${colourNameOf(index)})`);
    this.element.append(header, this.#bar, this.#state, this.#details, this.#answer.element);
  }

  begin(member) {
    this.#answer.begin(member.text);
    this.#thinking.begin(member.thinking);
  }

  add(member) {
    this.#member = member;
    this.#answer.add(member.text);
    this.#thinking.add(member.thinking);
  }

  draw(withNumbers) {
    const member = this.#member;
    if (!member) return;
    this.#fill.style.transform = `scaleX(${member.energy})`;
    if (withNumbers) {
      setText(this.#pace, `${Math.round(member.tokens_per_s)} tokens/s`);
      this.#bar.setAttribute("aria-valuenow", member.energy.toFixed(2));
      // A model that pauses is held, and is not, many times a second.
      setText(this.#state, stateSentence(member));
      this.element.classList.toggle("dropped", member.state === "dropped");
    }
    if (this.#thinking.draw()) this.#details.hidden = false;
    this.#answer.draw();
  }
}

// A text that is added to at its end, and keeps its end in sight while the reader does.
class GrowingText {
  #text = document.createTextNode("");
  #pending = "";

  constructor(label) {
    this.element = element("div", "text");
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "region");
    this.element.setAttribute("aria-label", label);
    this.element.append(this.#text);
  }

  // Begins anew with this text. It grows only: what is shown is the beginning of it.
  begin(text) {
    this.#pending = text.slice(this.#text.length);
  }

  add(text) {
    this.#pending += text;
  }

  // True where something was added.
  draw() {
    if (!this.#pending) return false;
    const box = this.element;
    const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
    this.#text.appendData(this.#pending);
    this.#pending = "";
    if (isAtEnd) box.scrollTop = box.scrollHeight;
    return true;
  }
}

const FINISHES = { stop: "finished", length: "finished at the most tokens allowed" };

// What the states of keeping in step mean, in so few words that the text below does not move.
const MEANINGS = {
  held: "held: pauses for the others",
  detached: "detached: no longer waited for",
};

function stateSentence(member) {
  const said = member.remote ? ["remote"] : [];
  if (member.state === "finished") said.push(FINISHES[member.reason] ?? "finished");
  else if (member.reason) said.push(`${member.state}: ${member.reason}`);
  else said.push(MEANINGS[member.state] ?? member.state);
  if (member.buffered_tokens === 1) said.push("1 token waits");
  if (member.buffered_tokens > 1) said.push(`${member.buffered_tokens} tokens wait`);
  return said.join(" · ");
}

function element(name, className = "") {
  const made = document.createElement(name);
  made.className = className;
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
