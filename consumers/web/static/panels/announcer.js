// The texts for screen readers: a summary of the session every few seconds, and the token under the cursor keys.

import { setText } from "../elements.js";
import { contestedSentence } from "../lanes/council.js";
import { secondsAt } from "../record/windows.js";

const EVERY_MS = 6_000;

export class Announcer {
  #summary;
  #pointed;
  #summarisedMs = -Infinity;

  // Both are live regions.
  constructor(summary, pointed) {
    [this.#summary, this.#pointed] = [summary, pointed];
  }

  begin() {
    this.#summarisedMs = -Infinity;
  }

  // Sets a summary of a frame of the record, at most one in EVERY_MS.
  summarise(frame, nowMs, record) {
    if (nowMs - this.#summarisedMs < EVERY_MS && !frame.final) return;
    this.#summarisedMs = nowMs;
    setText(this.#summary, summaryOf(frame, record));
  }

  announce(text) {
    this.#pointed.textContent = text;
  }
}

function summaryOf(frame, record) {
  const seconds = Math.round(secondsAt(frame.window_index));
  const measures = [`${seconds} seconds: energy ${frame.energy.toFixed(2)}`];
  if (frame.resonance) measures.push("resonance");
  else if (frame.agreement !== null) measures.push(`agreement ${frame.agreement.toFixed(2)}, ${frame.interference}`);
  if (frame.diverged_at_bytes !== null) measures.push(`parted at byte ${frame.diverged_at_bytes}`);
  if (record.agreed) measures.push(contestedSentence(record.agreed, record.agreedAt(frame.window_index)));
  const members = frame.members.map((member) => {
    const pace = member.state === "answering" ? `, ${Math.round(member.tokens_per_s)} tokens a second` : "";
    return `${member.name} ${member.state}${pace}`;
  });
  return `${measures.filter(Boolean).join(", ")}. ${members.join("; ")}.`;
}
