// The form: the prompt, how the members answer, the members and the tier.

import { getModels, openSession } from "../council/api.js";
import { openAgain } from "../council/family.js";
import { byId, setText } from "../elements.js";
import { ModelChoice } from "./models.js";

const READ_MODELS_MS = 4_000;
const TIERS = ["low", "mid", "high", "hybrid"];

export class Ask {
  #models = new ModelChoice(byId("models"), byId("no-models"));
  #handlers;
  #isAsking = false;
  #tier = byId("tier");
  // The tier's frame rate for the page.
  targetFps = 60;

  // handlers: onAsking(), onOpened(opened, request), onRefused(message)
  constructor(handlers) {
    this.#handlers = handlers;
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("ask").requestSubmit();
    });
    byId("prompt").addEventListener("input", fitPrompt);
    this.#tier.append(new Option("default", ""), ...TIERS.map((tier) => new Option(tier, tier)));
    this.#readModels();
    setInterval(() => {
      if (!document.hidden) this.#readModels();
    }, READ_MODELS_MS);
  }

  get isAsking() {
    return this.#isAsking;
  }

  // True if a checked member is remote: its label says that the prompt leaves this machine.
  get includesRemote() {
    return this.#models.includesRemote();
  }

  // Opens a session with the same request and the same members.
  again(session) {
    const { prompt, history, system, members, sync, weighting } = session;
    const weights = Object.fromEntries(members.filter((each) => each.weight !== 1).map((each) => [each.name, each.weight]));
    const same = { weights, sync, weighting, models: members.map(memberBody) };
    // A branch may have other members than its parent.
    if (session.parent) return this.#open(session, (options) => openAgain(session, { ...same, ...options }));
    const text = history.length ? { messages: [...history, { role: "user", content: prompt }] } : { prompt };
    return this.#open({ ...text, system, ...same });
  }

  async #send() {
    if (this.#models.isEmpty()) {
      this.#handlers.onRefused("No member is selected: select at least one.");
      return;
    }
    const prompt = byId("prompt").value;
    // A prompt that was changed meanwhile stays.
    if ((await this.#open({ prompt, models: this.#models.chosen(), sync: byId("sync").value })) && byId("prompt").value === prompt) {
      byId("prompt").value = "";
      fitPrompt();
    }
  }

  // open(options) opens a session; by default one with this request.
  async #open(request, open = (options) => openSession({ ...request, ...options })) {
    if (this.#isAsking) return false;
    this.#isAsking = true;
    this.#handlers.onAsking();
    try {
      const tier = this.#tier.value ? { tier: this.#tier.value } : {};
      const opened = await open({ ...tier, allow_remote: this.includesRemote });
      this.#handlers.onOpened(opened, request);
      return true;
    } catch (error) {
      this.#handlers.onRefused(error.message);
      return false;
    } finally {
      this.#isAsking = false;
    }
  }

  async #readModels() {
    try {
      const served = await getModels();
      this.targetFps = served.target_fps;
      setText(this.#tier.options[0], `${served.tier} (default)`);
      this.#models.show(served);
    } catch (error) {
      this.#models.showError(error.message);
    }
  }
}

// A member for POST /api/sessions, with its name, options and system text.
function memberBody({ model, name, sampling, system }) {
  return { model, name: name === model ? "" : name, ...sampling, system };
}

// For browsers without `field-sizing`.
function fitPrompt() {
  if (CSS.supports("field-sizing", "content")) return;
  const box = byId("prompt");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}
