// The list of sessions: any can be opened, and those that have ended can be deleted.

import { deleteSession, getSessions } from "../council/api.js";
import { button, element, shownTime } from "../elements.js";

export class Sessions {
  #panel;
  #list = element("ul");
  #note = element("p", "quiet");
  #onOpen;
  #shown = () => "";

  // onOpen(session) when the user picks one; shown() returns the session that the page shows.
  constructor(panel, onOpen, shown) {
    [this.#panel, this.#onOpen, this.#shown] = [panel, onOpen, shown];
    panel.append(element("h2", "", "Sessions"), this.#note, this.#list);
    panel.addEventListener("toggle", (event) => event.newState === "open" && this.#load());
  }

  async #load() {
    try {
      const sessions = await getSessions();
      this.#list.replaceChildren(...sessions.map((session) => this.#item(session)));
      this.#showCount();
    } catch (error) {
      this.#note.textContent = error.message;
    }
  }

  #showCount() {
    this.#note.textContent = this.#list.children.length > 0 ? "" : "No sessions yet: enter a prompt and select Ask.";
  }

  #item({ session, status, reason, names, opened_ms: openedMs, prompt_start: prompt, replay_of: of, recording, recorded_ms: recordedMs }) {
    const open = button("", () => {
      this.#panel.hidePopover();
      this.#onOpen(session);
    }, "session-link");
    const time = new Date(openedMs).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
    const facts = [
      time,
      of ? `replay of a session of ${shownTime(recordedMs)}` : "",
      status === "open" ? "running" : "ended",
      recording && !of ? "kept" : "",
      names.join(", "),
      reason,
    ];
    open.append(element("span", "prompt-start", prompt || "(no text)"), element("span", "quiet", facts.filter(Boolean).join(" · ")));
    if (session === this.#shown()) open.setAttribute("aria-current", "true");
    const item = element("li", "", open);
    if (status === "ended") {
      const remove = button("Delete", async () => {
        try {
          await deleteSession(session);
          item.remove();
          this.#panel.querySelector("li button")?.focus();
          this.#showCount();
        } catch (error) {
          this.#note.textContent = error.message;
        }
      }, "small");
      remove.setAttribute("aria-label", `Delete the session: ${prompt}`);
      item.append(remove);
    }
    return item;
  }
}
