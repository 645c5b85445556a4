// Follows one session over a WebSocket, across restarts of the server.
//
//   GET the text so far --onText(session)--> socket --frames, each window once--> onFrame
//    ^                                          |  closed with 1000: onEnd()    closed with 1011: onEnd(reason)
//    +------------ wait, then again ------------+  anything else: onAway()
//
// After a reconnection the page names the last frame that it has, and its cut. A server whose Redis has lost that frame
// closes the socket with 1013 before it sends a frame: onSetBack(), and the page forgets the session and starts again.
//
// The text so far contains all that was released up to a window. The socket then sends every kept frame that this page does
// not have, and each new one; of frames up to that window only the numbers are used. If the frames begin after the end of
// the text, or a merged frame reaches past its end, the text is requested again.

import { getSession } from "./api.js";

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5_000;
// About five minutes; after a longer pause a person starts the council and reloads the page.
const MOST_ATTEMPTS = 60;

const ENDED = 1000;
const FAILED = 1011;
const SET_BACK = 1013;

export class Following {
  #session;
  #handlers;
  #textTo = -1;
  #lastWindow = -1;
  #lastCut = "";
  // The newest window that this socket has sent; before its first frame, the window before those it was asked for.
  #previous = -1;
  #attempts = 0;
  // True until this socket has sent a frame.
  #isSilent = true;
  #socket = null;
  #timer = 0;

  // handlers: onText(session), onFrame(frame), onAway(), onBack(), onSetBack(), onEnd(reason or "")
  constructor(session, handlers) {
    this.#session = session;
    this.#handlers = handlers;
    this.#begin();
  }

  get session() {
    return this.#session;
  }

  // Calls no handler from now on.
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
      if (error.status === 404) this.#handlers?.onEnd("The council no longer has this session.");
      else this.#retry();
      return;
    }
    if (this.#handlers) this.#connect();
  }

  #connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const cut = this.#lastCut ? `&cut=${this.#lastCut}` : "";
    const query = `session=${encodeURIComponent(this.#session)}&from=${this.#lastWindow + 1}${cut}`;
    const socket = new WebSocket(`${scheme}://${location.host}/frames?${query}`);
    this.#socket = socket;
    this.#previous = this.#lastWindow;
    this.#isSilent = true;
    socket.onmessage = (message) => this.#take(JSON.parse(message.data), socket);
    socket.onclose = (event) => this.#close(event);
  }

  #take(frame, socket) {
    if (socket !== this.#socket) return;
    this.#isSilent = false;
    if (this.#isTorn(frame.window_index)) {
      this.#socket = null;
      socket.close();
      this.#begin();
      return;
    }
    this.#previous = frame.window_index;
    if (this.#attempts) this.#handlers?.onBack();
    this.#attempts = 0;
    if (frame.window_index <= this.#lastWindow) return;
    this.#lastWindow = frame.window_index;
    this.#lastCut = frame.cut;
    if (frame.window_index <= this.#textTo) {
      for (const member of frame.members) member.text = member.thinking = "";
      frame.agreed = null;
    }
    this.#handlers?.onFrame(frame);
  }

  // True if the frame contains windows on both sides of the text's end: a frame contains all windows since the previous
  // one, and its text cannot be divided.
  #isTorn(window) {
    return window > this.#textTo && this.#previous < this.#textTo;
  }

  #close(event) {
    if (!this.#handlers || event.target !== this.#socket) return;
    if (event.code === ENDED || event.code === FAILED) {
      this.#handlers.onEnd(event.code === FAILED ? event.reason : "");
    } else if (event.code === SET_BACK && this.#isSilent && this.#lastCut) {
      this.#handlers.onSetBack();
    } else {
      this.#retry();
    }
  }

  #retry() {
    if (!this.#handlers) return;
    if (this.#attempts === MOST_ATTEMPTS) {
      this.#handlers?.onEnd("The connection could not be restored: start the council, then reload this page.");
      return;
    }
    this.#handlers?.onAway();
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    this.#timer = setTimeout(() => this.#begin(), wait);
  }
}
