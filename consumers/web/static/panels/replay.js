// The shown replay: its label, its controls and its keys.
//
//   space         pause, continue           0 … 9      to so many tenths of its length
//   ← →           a second back, forward    Shift ← →  a window back, forward

import { Playback } from "../council/playback.js";
import { byId, setText, shownTime } from "../elements.js";
import { WINDOWS_PER_SECOND } from "../record/windows.js";
import { setStatus, showError } from "./notices.js";

const SPEEDS = [[0.25, "¼"], [0.5, "½"], [1, "1"], [2, "2"], [4, "4"], [8, "8"], [0, "max"]];
// Elements that use these keys themselves when they have the focus.
const OWN_KEYS = "input:not([type=range]), select, textarea, [contenteditable], [tabindex], dialog, [popover]";
const BUTTONS = "button, a, summary, [type=range]";

export class Replay {
  #playback = null;
  // The window that was drawn last.
  #drawn = -1;
  #transport;
  #onMove;

  // onMove() when another window must be shown.
  constructor(transport, onMove) {
    [this.#transport, this.#onMove] = [transport, onMove];
    byId("rate").append(...SPEEDS.map(([rate, label]) => new Option(label, String(rate))));
    byId("rate").addEventListener("change", () => this.#playback?.order({ rate: Number(byId("rate").value) }));
    byId("step-back").addEventListener("click", () => this.#step(-1));
    byId("step-on").addEventListener("click", () => this.#step(1));
    byId("loop").addEventListener("click", () => this.#loop());
    addEventListener("keydown", (event) => this.#press(event));
    // A page in the background reads no reports.
    document.addEventListener("visibilitychange", () => document.hidden || this.#onMove());
  }

  get playback() {
    return this.#playback;
  }

  // Begins another session; null while it is unknown.
  begin(session) {
    this.#playback?.leave();
    this.#drawn = -1;
    const isReplay = Boolean(session?.replay_of);
    this.#playback = isReplay ? new Playback(session.session, { onMove: () => this.#show(), onRefused: showError }) : null;
    byId("replayed").hidden = byId("replay-controls").hidden = !isReplay;
    byId("loop").setAttribute("aria-pressed", "false");
    if (isReplay) setText(byId("replayed"), replayMark(session));
  }

  // Updates the controls and the shown window.
  #show() {
    const { playing } = this.#playback;
    const rate = String(playing.rate);
    if (![...byId("rate").options].some((option) => option.value === rate)) byId("rate").append(new Option(rate, rate));
    byId("rate").value = rate;
    this.showStatus();
    this.#onMove();
  }

  // Shows the replay's state in the page's status. It is at its end when its last window was drawn, not before.
  showStatus(drawn = this.#drawn) {
    this.#drawn = drawn;
    if (!this.#playback || this.#playback.playing.lastWindow < 0) return;
    const nowMs = performance.now();
    const { playing } = this.#playback;
    if (playing.isOver(nowMs) && drawn >= playing.lastWindow) setStatus("The replay is at its end.");
    else setStatus(playing.isPaused ? "The replay is paused." : "The replay is playing.");
  }

  // A step also pauses the replay.
  #step(step) {
    this.#playback?.order({ window: this.#transport.window, step, paused: true });
  }

  #loop() {
    if (!this.#playback) return;
    this.#playback.isLooping = !this.#playback.isLooping;
    byId("loop").setAttribute("aria-pressed", String(this.#playback.isLooping));
  }

  #press(event) {
    const { key, target } = event;
    const isTaken = event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey;
    if (!this.#playback || isTaken || target.closest?.(OWN_KEYS)) return;
    const { playing } = this.#playback;
    const arrow = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (key === " ") {
      if (target.closest(BUTTONS)) return;
      this.#transport.toggle();
    } else if (arrow) {
      if (target.matches("[type=range]")) return;
      if (event.shiftKey) this.#step(arrow);
      else this.#playback.order({ step: arrow * WINDOWS_PER_SECOND });
    } else if (/^[0-9]$/.test(key) && playing.lastWindow >= 0) {
      this.#playback.order({ window: Math.round((playing.lastWindow * Number(key)) / 10) });
    } else {
      return;
    }
    event.preventDefault();
  }
}

// The label of a replay.
export function replayMark({ replay_of: of, recorded_ms: recordedMs }) {
  return `Replay of ${of}, recorded ${shownTime(recordedMs)}`;
}
