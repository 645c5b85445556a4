// A replay that is shown: the mark that says so, its controls, and the keys that move it.
//
//   space         pause, go on              0 … 9      to so many tenths of it
//   ← →           a second back, on         Shift ← →  a window back, on

import { Playback } from "../council/playback.js";
import { at, setText, shownTime } from "../elements.js";
import { setStatus, showError } from "./notices.js";

const SPEEDS = [[0.25, "¼"], [0.5, "½"], [1, "1"], [2, "2"], [4, "4"], [8, "8"], [0, "max"]];
const WINDOWS_A_SECOND = 60;
// Where a key belongs to what has the focus.
const OWN_KEYS = "input:not([type=range]), select, textarea, [contenteditable], [tabindex], dialog, [popover]";
const BUTTONS = "button, a, summary, [type=range]";

export class Replay {
  #playback = null;
  // The window that was drawn last.
  #drawn = -1;
  #transport;
  #onMove;

  // onMove() where another window is to be shown.
  constructor(transport, onMove) {
    [this.#transport, this.#onMove] = [transport, onMove];
    at("rate").append(...SPEEDS.map(([rate, label]) => new Option(label, String(rate))));
    at("rate").addEventListener("change", () => this.#playback?.order({ rate: Number(at("rate").value) }));
    at("step-back").addEventListener("click", () => this.#step(-1));
    at("step-on").addEventListener("click", () => this.#step(1));
    at("loop").addEventListener("click", () => this.#loop());
    addEventListener("keydown", (event) => this.#press(event));
    // What was not asked for in the background is asked for now.
    document.addEventListener("visibilitychange", () => document.hidden || this.#onMove());
  }

  get playback() {
    return this.#playback;
  }

  // Another session; what is known of it, once it is.
  begin(session) {
    this.#playback?.leave();
    this.#drawn = -1;
    const isReplay = Boolean(session?.replay_of);
    this.#playback = isReplay ? new Playback(session.session, { onMove: () => this.#show(), onRefused: showError }) : null;
    at("replayed").hidden = at("replay-controls").hidden = !isReplay;
    at("loop").setAttribute("aria-pressed", "false");
    if (isReplay) setText(at("replayed"), replayMark(session));
  }

  // The controls as they are now, and the page at its new place.
  #show() {
    const { playing } = this.#playback;
    const rate = String(playing.rate);
    if (![...at("rate").options].some((option) => option.value === rate)) at("rate").append(new Option(rate, rate));
    at("rate").value = rate;
    this.tell();
    this.#onMove();
  }

  // How it goes, in the page's status. It is at its end once that is drawn, not when the last frames are on their way.
  tell(drawn = this.#drawn) {
    this.#drawn = drawn;
    if (!this.#playback || this.#playback.playing.lastWindow < 0) return;
    const nowMs = performance.now();
    const { playing } = this.#playback;
    if (playing.isOver(nowMs) && drawn >= playing.lastWindow) setStatus("The replay is at its end.");
    else setStatus(playing.isPaused ? "The replay is paused." : "The replay plays.");
  }

  // Where a person steps they want to look.
  #step(step) {
    this.#playback?.order({ window: this.#transport.window, step, paused: true });
  }

  #loop() {
    if (!this.#playback) return;
    this.#playback.isLooping = !this.#playback.isLooping;
    at("loop").setAttribute("aria-pressed", String(this.#playback.isLooping));
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
      else this.#playback.order({ step: arrow * WINDOWS_A_SECOND });
    } else if (/^[0-9]$/.test(key) && playing.lastWindow >= 0) {
      this.#playback.order({ window: Math.round((playing.lastWindow * Number(key)) / 10) });
    } else {
      return;
    }
    event.preventDefault();
  }
}

// Which session is replayed, in words: with its recording's name where that is known.
export function replayMark({ replay_of: of, recorded_ms: recordedMs }) {
  return `Replay of ${of}, recorded ${shownTime(recordedMs)}`;
}
