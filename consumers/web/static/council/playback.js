// A replay from this page: how far it is, asked for again and again, and what a person wants of it.
//
//   controls --order--> POST playback, one at a time     what comes meanwhile is one order
//   Playing  <--report-- GET playback, every 250 ms while it moves, each second while it rests
//
// Every page that shows the replay does the same, so all of them are at one place. A replay whose process is gone follows
// no order any more: then this page goes through what it has received by itself.

import { getPlayback, orderPlayback } from "./api.js";
import { Playing } from "../record/playing.js";

const MOVING_MS = 250;
const RESTING_MS = 1_000;
// An order is followed within a quarter of a second: reports from before it would take it back.
const FOLLOWED_MS = 700;
// Other pages may do something, too: so long after a person did something here it is looked for as often as ever.
const AWAKE_MS = 2_000;

export class Playback {
  playing = new Playing();
  isLooping = false;
  #session;
  #handlers;
  #timer = 0;
  #isOrdering = false;
  #pending = null;
  #orderedMs = -Infinity;
  #reported = "";

  // handlers: onMove() where something has changed, onRefused(sentence)
  constructor(session, handlers) {
    [this.#session, this.#handlers] = [session, handlers];
    this.#look();
  }

  leave() {
    clearTimeout(this.#timer);
    this.#handlers = null;
  }

  // {rate, paused, window, step}: what is left out stays as it is.
  order(asked) {
    const nowMs = performance.now();
    // A replay as fast as it can be computed stays nowhere: who goes to a window wants to look at it.
    const isPlace = asked.window !== undefined || asked.step !== undefined;
    const pauses = isPlace && (asked.rate ?? this.playing.rate) === 0;
    const word = pauses ? { paused: true, ...asked } : asked;
    this.playing.order(word, nowMs);
    this.#orderedMs = nowMs;
    this.#pending = together(this.#pending, word);
    this.#handlers?.onMove();
    this.#send();
  }

  async #send() {
    if (this.#isOrdering) return;
    this.#isOrdering = true;
    try {
      while (this.#pending) {
        const word = this.#pending;
        this.#pending = null;
        await orderPlayback(this.#session, word);
      }
    } catch (error) {
      this.#handlers?.onRefused(error.message);
    }
    this.#isOrdering = false;
    this.#lookIn(MOVING_MS / 2);
  }

  #lookIn(waitMs) {
    clearTimeout(this.#timer);
    if (this.#handlers) this.#timer = setTimeout(() => this.#look(), waitMs);
  }

  async #look() {
    const report = document.hidden ? null : await getPlayback(this.#session).catch(() => null);
    if (!this.#handlers) return;
    const nowMs = performance.now();
    if (report) this.#take(report, nowMs);
    const { playing } = this;
    if (this.isLooping && !playing.isPaused && playing.rate > 0 && playing.isOver(nowMs)) this.order({ window: 0 });
    const rests = !playing.isMoving(nowMs) && nowMs - this.#orderedMs > AWAKE_MS;
    this.#lookIn(rests ? RESTING_MS : MOVING_MS);
  }

  #take(report, nowMs) {
    // The replay has not begun.
    if (report.last_window < 0) return;
    const reported = JSON.stringify(report);
    const isNews = reported !== this.#reported;
    this.#reported = reported;
    if (this.#isOrdering || this.#pending) return;
    const agrees = this.playing.agrees(report, nowMs);
    const sinceMs = nowMs - this.#orderedMs;
    if (!agrees && sinceMs < FOLLOWED_MS) return;
    // Nobody follows an order: this page is alone, and knows all but how long the recording is.
    if (!report.has_player && this.playing.lastWindow >= 0) return;
    this.playing.take(report, nowMs);
    if (isNews || !agrees) this.#handlers.onMove();
  }
}

// Two orders as one.
function together(before, { rate, paused, window, step = 0 }) {
  const found = { ...before };
  if (rate !== undefined) found.rate = rate;
  if (paused !== undefined) found.paused = paused;
  if (window !== undefined) [found.window, found.step] = [window, 0];
  if (step) found.step = (found.step ?? 0) + step;
  return found;
}
