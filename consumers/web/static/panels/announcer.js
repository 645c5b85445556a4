// What a screen reader says of the session: a summary now and then, and what is walked through with the keys.

import { setText } from "../elements.js";

const EVERY_MS = 6_000;

export class Announcer {
  #summary;
  #pointed;
  #saidMs = -Infinity;

  // Two live regions.
  constructor(summary, pointed) {
    [this.#summary, this.#pointed] = [summary, pointed];
  }

  begin() {
    this.#saidMs = -Infinity;
  }

  // A summary of the frame, unless one was given a moment ago.
  summarise(frame, nowMs) {
    if (nowMs - this.#saidMs < EVERY_MS && !frame.final) return;
    this.#saidMs = nowMs;
    setText(this.#summary, summaryOf(frame));
  }

  tell(text) {
    this.#pointed.textContent = text;
  }
}

function summaryOf(frame) {
  const seconds = Math.round((frame.window_index + 1) / 60);
  const said = [`${seconds} seconds: energy ${frame.energy.toFixed(2)}`];
  if (frame.resonance) said.push("the members resonate");
  else if (frame.agreement !== null) said.push(`agreement ${frame.agreement.toFixed(2)}, ${frame.interference}`);
  if (frame.diverged_at_bytes !== null) said.push(`parted at byte ${frame.diverged_at_bytes}`);
  const members = frame.members.map((member) => {
    const pace = member.state === "answering" ? `, ${Math.round(member.tokens_per_s)} tokens a second` : "";
    return `${member.name} ${member.state}${pace}`;
  });
  return `${said.join(", ")}. ${members.join("; ")}.`;
}
