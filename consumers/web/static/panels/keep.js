// The button that records the shown session, and its state.
//
//   Keep --click--> Keeping… --the file exists--> Kept

import { getRecording, keepSession } from "../council/api.js";
import { byId, setText } from "../elements.js";
import { showError } from "./notices.js";

const LOOK_MS = 1_500;
const TITLES = {
  Keep: "Record this session, from its beginning to its end",
  "Keeping…": "The session is recorded to its end",
  Kept: "The recording is in the library",
};

export class Keep {
  #button = byId("keep");
  #session = "";
  #timer = 0;

  constructor() {
    this.#button.addEventListener("click", () => this.#keep());
  }

  // Begins another session; null while it is unknown. A replay is in the library already.
  begin(session) {
    clearTimeout(this.#timer);
    this.#session = session?.session ?? "";
    this.#button.hidden = !session || Boolean(session.replay_of);
    this.#show(session?.recording ? "Kept" : "Keep");
  }

  async #keep() {
    if (this.#button.getAttribute("aria-disabled") === "true") return;
    const session = this.#session;
    this.#show("Keeping…");
    try {
      const { recording, recorded } = await keepSession(session);
      if (session !== this.#session) return;
      if (recorded) this.#show("Kept");
      else this.#await(session, recording);
    } catch (error) {
      if (session !== this.#session) return;
      this.#show("Keep");
      showError(error.message);
    }
  }

  // A running session is kept when it has ended.
  #await(session, recording) {
    this.#timer = setTimeout(async () => {
      const found = document.hidden ? null : await getRecording(recording).catch(() => null);
      if (session !== this.#session) return;
      if (found) this.#show("Kept");
      else this.#await(session, recording);
    }, LOOK_MS);
  }

  #show(label) {
    setText(this.#button, label);
    this.#button.setAttribute("aria-disabled", String(label !== "Keep"));
    this.#button.title = TITLES[label];
  }
}
