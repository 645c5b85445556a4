// Follows one session's frames over a WebSocket, across restarts of the server.
//
//   socket --frames, each window once--> onFrame     closed 1000: onEnd()      closed 1011: onEnd(why)
//      ^------ wait, look whether it is still there ------- anything else: onAway()
//
// The server replays a session from its beginning; windows that were seen are left out here.

import { getSessions } from "./api.js";

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5_000;
// Some five minutes: a server that is away for longer is started by hand, and the page loaded again.
const MOST_ATTEMPTS = 60;

const ENDED = 1000;
const FAILED = 1011;

export class Following {
  #session;
  #handlers;
  #lastWindow = -1;
  #attempts = 0;
  #socket = null;
  #timer = 0;

  // handlers: onFrame(frame), onAway(), onBack(), onEnd(reason or "")
  constructor(session, handlers) {
    this.#session = session;
    this.#handlers = handlers;
    this.#connect();
  }

  get session() {
    return this.#session;
  }

  // Says nothing more.
  leave() {
    clearTimeout(this.#timer);
    this.#handlers = null;
    this.#socket?.close();
  }

  #connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/frames?session=${encodeURIComponent(this.#session)}`);
    this.#socket = socket;
    socket.onmessage = (message) => this.#take(JSON.parse(message.data));
    socket.onclose = (event) => this.#close(event);
  }

  #take(frame) {
    if (this.#attempts) this.#handlers?.onBack();
    this.#attempts = 0;
    if (frame.window_index <= this.#lastWindow) return;
    this.#lastWindow = frame.window_index;
    this.#handlers?.onFrame(frame);
  }

  #close(event) {
    if (!this.#handlers) return;
    if (event.code === ENDED || event.code === FAILED) {
      this.#handlers.onEnd(event.code === FAILED ? event.reason : "");
    } else {
      this.#retry();
    }
  }

  #retry() {
    if (this.#attempts === MOST_ATTEMPTS) {
      this.#handlers?.onEnd("The council did not come back: start it, then load this page again.");
      return;
    }
    this.#handlers?.onAway();
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    this.#timer = setTimeout(() => this.#look(), wait);
  }

  // A refused WebSocket does not say why: the list of sessions does.
  async #look() {
    try {
      const sessions = await getSessions();
      if (sessions.some((known) => known.session === this.#session)) this.#connect();
      else this.#handlers?.onEnd("The session is gone: the council no longer has it.");
    } catch {
      this.#retry();
    }
  }
}
