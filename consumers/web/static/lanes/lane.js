// The lane of one member: its name, its state and its growing text.

import { button, element, setText } from "../elements.js";
import { colourNameOf, shapeIcon } from "../stage/marks.js";
import { CopyButton } from "./copy.js";
import { GrowingText } from "./text.js";

export class Lane {
  #answerView;
  #thoughtsView;
  #details;
  #pace = element("span", "pace");
  #state = element("p", "state");
  #bar = element("div", "bar");
  #energy = element("span", "energy");
  #stop;

  // handlers: onStop(index), onToken(index, start byte, element, isByKey), onChoose(the same), onLeave(),
  // onUnknown(index, range)
  constructor(name, index, answer, thoughts, handlers) {
    const number = element("span", "", `${index + 1} `);
    const heading = element("h3", "", number, name);
    heading.id = `member-${index + 1}`;

    this.#bar.append(element("div"));
    this.#bar.setAttribute("role", "meter");
    this.#bar.setAttribute("aria-label", `Energy of ${name}`);
    this.#bar.setAttribute("aria-valuemin", "0");
    this.#bar.setAttribute("aria-valuemax", "1");
    this.#bar.setAttribute("aria-valuenow", "0");

    this.#stop = button("Stop", () => handlers.onStop(index), "small");
    this.#stop.setAttribute("aria-label", `Stop ${name}`);
    const copy = new CopyButton(`Copy the answer of ${name}`, () => answer.text);

    const label = `Answer of ${name}; use the arrow keys to move through its tokens, and Enter for a what-if`;
    this.#answerView = new GrowingText(answer, label, {
      onToken: (...token) => handlers.onToken(index, ...token),
      onChoose: (...token) => handlers.onChoose(index, ...token),
      onLeave: handlers.onLeave,
      onUnknown: (range) => handlers.onUnknown(index, range),
    });
    this.#thoughtsView = new GrowingText(thoughts, `Thinking of ${name}`);
    this.#details = element("details", "", element("summary", "", "Thinking"), this.#thoughtsView.element);
    this.#details.hidden = true;

    this.element = element(
      "article", "lane",
      element("header", "", shapeIcon(index), heading, this.#stop, copy.element),
      element("div", "vitals", this.#bar, this.#energy, this.#pace),
      this.#state, this.#details, this.#answerView.element,
    );
    this.element.setAttribute("aria-labelledby", heading.id);
    this.element.style.setProperty("--colour", `var(${colourNameOf(index)})`);
  }

  get answerView() {
    return this.#answerView;
  }

  // Draws the member's state in a frame, and so much of its texts. Numbers are drawn only `withNumbers`: faster ones cannot
  // be read.
  draw(member, [answered, thought], withNumbers) {
    this.#bar.firstChild.style.transform = `scaleX(${member.energy})`;
    if (withNumbers) {
      setText(this.#energy, member.energy.toFixed(2));
      setText(this.#pace, `${Math.round(member.tokens_per_s)} tokens/s`);
      this.#bar.setAttribute("aria-valuenow", member.energy.toFixed(2));
      // With the numbers, because a model that pauses becomes held many times a second.
      setText(this.#state, stateSentence(member));
      this.element.classList.toggle("alarm", isAlarming(member));
    }
    this.#thoughtsView.draw(thought);
    this.#details.hidden = thought === 0;
    this.#answerView.draw(answered);
  }

  // Shows the Stop button while the member runs.
  showRunning(runs) {
    if (!runs && document.activeElement === this.#stop) this.#answerView.element.focus();
    this.#stop.hidden = !runs;
  }

  close() {
    this.#answerView.close();
    this.#thoughtsView.close();
  }
}

const FINISHES = { stop: "finished", length: "finished: token limit reached" };

// True for a member that a user should look at: it was dropped, but not by a user, or its answer has ended in a way that
// needs attention.
export function isAlarming({ state, reason }) {
  if (state === "finished") return Boolean(reason) && !(reason in FINISHES);
  return state === "dropped" && reason !== "cancelled";
}

// The meaning of the states of step mode, short enough that the text below does not move.
const MEANINGS = {
  held: "held: waits for the others",
  detached: "detached: not waited for",
};

function finishOf(reason) {
  return FINISHES[reason] ?? (reason ? `finished: ${reason}` : "finished");
}

function stateSentence(member) {
  const parts = member.remote ? ["remote"] : [];
  if (member.state === "finished") parts.push(finishOf(member.reason));
  else if (member.reason === "cancelled") parts.push("stopped");
  else if (member.reason) parts.push(`${member.state}: ${member.reason}`);
  else if (member.awaited) parts.push(member.state === "loading" ? "loading: the others wait" : "the others wait for it");
  else parts.push(MEANINGS[member.state] ?? member.state);
  if (member.buffered_tokens === 1) parts.push("1 token buffered");
  if (member.buffered_tokens > 1) parts.push(`${member.buffered_tokens} tokens buffered`);
  return parts.join(" · ");
}
