// The health strip: how well this page and the council keep up with the frames.

import { element, setText } from "../elements.js";
import { isAlarming } from "../lanes/lane.js";

const SECOND_MS = 1_000;

export class Health {
  #root;
  #values = new Map();
  #counts = { drawn: 0, received: 0 };
  #sinceMs = performance.now();

  constructor(root) {
    this.#root = root;
    for (const [name, label] of [
      ["drawn", "Frames drawn"], ["received", "Frames received"], ["late", "Late windows, total"],
      ["merged", "Merged frames, total"], ["waiting", "Buffered tokens"], ["dropped", "Dropped"], ["link", "Connection"],
    ]) {
      const value = element("dd", "", "–");
      this.#values.set(name, value);
      root.append(element("div", name, element("dt", "", label), value));
    }
  }

  countDrawn() {
    this.#counts.drawn += 1;
  }

  countReceived() {
    this.#counts.received += 1;
  }

  showLink(text) {
    setText(this.#values.get("link"), text);
  }

  // Called once a second: shows the counts since the last call, and values of the newest frame.
  show(frame, runs) {
    const now = performance.now();
    const perSecond = (count) => `${Math.round((count * SECOND_MS) / (now - this.#sinceMs))} /s`;
    setText(this.#values.get("drawn"), runs ? perSecond(this.#counts.drawn) : "idle");
    setText(this.#values.get("received"), runs ? perSecond(this.#counts.received) : "idle");
    this.#counts = { drawn: 0, received: 0 };
    this.#sinceMs = now;
    const waiting = frame.members.reduce((sum, member) => sum + (member.buffered_tokens ?? 0), 0);
    setText(this.#values.get("waiting"), String(waiting));
    const dropped = frame.members.filter((member) => member.state === "dropped");
    const reasons = dropped.map((member) => `${member.name}: ${member.reason}`).join("; ");
    setText(this.#values.get("dropped"), reasons || "none");
    this.#root.querySelector(".dropped").classList.toggle("alarm", dropped.some(isAlarming));
  }

  // Shows the counts of the council's processes, since these started.
  showStatus({ processes }) {
    const sum = (role, name) =>
      processes.filter((each) => each.role === role).reduce((total, each) => total + Number(each[name] ?? 0), 0);
    setText(this.#values.get("late"), String(sum("aggregator", "windows_late")));
    setText(this.#values.get("merged"), String(sum("web", "frames_merged")));
  }
}
