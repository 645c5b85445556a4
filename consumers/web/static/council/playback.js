// Controls a replay: sends orders to it, and reads its position regularly.
//
//   controls --order--> POST playback, one at a time     orders that come meanwhile are joined to one
//   Playing  <--report-- GET playback, every 250 ms while it moves, each second while it rests
//
// Every page that shows the replay does the same, so all of them show the same window. A replay whose process has ended
// follows no orders: then this page moves through the frames that it has received.

import { getPlayback, orderPlayback } from "./api.js";
import { Playing } from "../record/playing.js";

const MOVING_MS = 250;
const RESTING_MS = 1_000;
// The replay follows an order within a quarter of a second; an older report would undo it here.
const FOLLOWED_MS = 700;
// Other pages may send orders, too: for so long after an order of this page, reports are read at the fast rate.
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

  // handlers: onMove() after a change, onRefused(message)
  constructor(session, handlers) {
    [this.#session, this.#handlers] = [session, handlers];
    this.#read();
  }

  leave() {
    clearTimeout(this.#timer);
    this.#handlers = null;
  }

  // {rate, paused, window, step}: a field that is left out does not change.
  order(request) {
    const nowMs = performance.now();
    // A replay as fast as it can be computed would leave the chosen window at once: it pauses there.
    const isSeek = request.window !== undefined || request.step !== undefined;
    const pauses = isSeek && (request.rate ?? this.playing.rate) === 0;
    const order = pauses ? { paused: true, ...request } : request;
    this.playing.order(order, nowMs);
    this.#orderedMs = nowMs;
    this.#pending = joined(this.#pending, order);
    this.#handlers?.onMove();
    this.#send();
  }

  async #send() {
    if (this.#isOrdering) return;
    this.#isOrdering = true;
    try {
      while (this.#pending) {
        const order = this.#pending;
        this.#pending = null;
        await orderPlayback(this.#session, order);
      }
    } catch (error) {
      this.#handlers?.onRefused(error.message);
    }
    this.#isOrdering = false;
    this.#readIn(MOVING_MS / 2);
  }

  #readIn(waitMs) {
    clearTimeout(this.#timer);
    if (this.#handlers) this.#timer = setTimeout(() => this.#read(), waitMs);
  }

  async #read() {
    const report = document.hidden ? null : await getPlayback(this.#session).catch(() => null);
    if (!this.#handlers) return;
    const nowMs = performance.now();
    if (report) this.#take(report, nowMs);
    const { playing } = this;
    if (this.isLooping && !playing.isPaused && playing.rate > 0 && playing.isOver(nowMs)) this.order({ window: 0 });
    const rests = !playing.isMoving(nowMs) && nowMs - this.#orderedMs > AWAKE_MS;
    this.#readIn(rests ? RESTING_MS : MOVING_MS);
  }

  #take(report, nowMs) {
    // The replay has not begun.
    if (report.last_window < 0) return;
    const reported = JSON.stringify(report);
    const isNew = reported !== this.#reported;
    this.#reported = reported;
    if (this.#isOrdering || this.#pending) return;
    const agrees = this.playing.agrees(report, nowMs);
    const sinceMs = nowMs - this.#orderedMs;
    if (!agrees && sinceMs < FOLLOWED_MS) return;
    // No process follows orders: of the report only the recording's length is used.
    if (!report.has_player && this.playing.lastWindow >= 0) return;
    this.playing.take(report, nowMs);
    if (isNew || !agrees) this.#handlers.onMove();
  }
}

// Two orders as one.
function joined(before, { rate, paused, window, step = 0 }) {
  const found = { ...before };
  if (rate !== undefined) found.rate = rate;
  if (paused !== undefined) found.paused = paused;
  if (window !== undefined) [found.window, found.step] = [window, 0];
  if (step) found.step = (found.step ?? 0) + step;
  return found;
}
