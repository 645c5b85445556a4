// Follows one session over a WebSocket, across restarts of the server.
//
//   GET the text so far --onText(session)--> socket --frames, each window once--> onFrame
//    ^                                          |  closed 1000: onEnd()    closed 1011: onEnd(why)
//    +-- wait, look whether it is still there --+  anything else: onAway()
//
// The text so far holds all that was released up to a window. The socket then shows every frame that is kept and not known
// here yet, and each as it comes: of those up to that window only the numbers count. Should the frames begin later than the
// text ends, or should one that was merged for a slow reader reach past its end, the text so far is asked for again.

import { getSession } from "./api.js";

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5_000;
// Some five minutes: a server that is away for longer is started by hand, and the page loaded again.
const MOST_ATTEMPTS = 60;

const ENDED = 1000;
const FAILED = 1011;

export class Following {
  #session;
  #handlers;
  #textTo = -1;
  #lastWindow = -1;
  // The newest window that this socket brought, or before those that it was asked for.
  #before = -1;
  #attempts = 0;
  #socket = null;
  #timer = 0;

  // handlers: onText(session), onFrame(frame), onAway(), onBack(), onEnd(reason or "")
  constructor(session, handlers) {
    this.#session = session;
    this.#handlers = handlers;
    this.#begin();
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

  async #begin() {
    try {
      const session = await getSession(this.#session);
      this.#textTo = session.window_index;
      this.#handlers?.onText(session);
    } catch (error) {
      if (error.status === 404) this.#handlers?.onEnd("The session is gone: the council no longer has it.");
      else this.#retry();
      return;
    }
    if (this.#handlers) this.#connect();
  }

  #connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const asked = `session=${encodeURIComponent(this.#session)}&from=${this.#lastWindow + 1}`;
    const socket = new WebSocket(`${scheme}://${location.host}/frames?${asked}`);
    this.#socket = socket;
    this.#before = this.#lastWindow;
    socket.onmessage = (message) => this.#take(JSON.parse(message.data), socket);
    socket.onclose = (event) => this.#close(event);
  }

  #take(frame, socket) {
    if (socket !== this.#socket) return;
    if (this.#isTorn(frame.window_index)) {
      this.#socket = null;
      socket.close();
      this.#begin();
      return;
    }
    this.#before = frame.window_index;
    if (this.#attempts) this.#handlers?.onBack();
    this.#attempts = 0;
    if (frame.window_index <= this.#lastWindow) return;
    this.#lastWindow = frame.window_index;
    if (frame.window_index <= this.#textTo) {
      for (const member of frame.members) member.text = member.thinking = "";
    }
    this.#handlers?.onFrame(frame);
  }

  // Whether part of what the frame says may be in the text so far, or between that and the frame, which nobody can tell:
  // it holds all windows since the one before it.
  #isTorn(window) {
    return window > this.#textTo && this.#before < this.#textTo;
  }

  #close(event) {
    if (!this.#handlers || event.target !== this.#socket) return;
    if (event.code === ENDED || event.code === FAILED) {
      this.#handlers.onEnd(event.code === FAILED ? event.reason : "");
    } else {
      this.#retry();
    }
  }

  #retry() {
    if (!this.#handlers) return;
    if (this.#attempts === MOST_ATTEMPTS) {
      this.#handlers?.onEnd("The council did not come back: start it, then load this page again.");
      return;
    }
    this.#handlers?.onAway();
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    this.#timer = setTimeout(() => this.#begin(), wait);
  }
}
