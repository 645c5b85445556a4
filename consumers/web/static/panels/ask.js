// The question: a box that works at once, who is asked, and in which tier.

import { getModels, openSession } from "../council/api.js";
import { at, setText } from "../elements.js";
import { ModelChoice } from "./models.js";

const LOOK_FOR_MODELS_MS = 4_000;
const TIERS = ["low", "mid", "high", "hybrid"];

export class Ask {
  #models = new ModelChoice(at("models"), at("no-models"));
  #handlers;
  #isAsking = false;
  #tier = at("tier");
  // How often a second the tier wants the page drawn.
  targetFps = 60;

  // handlers: onAsking(), onOpened(opened, request), onRefused(sentence)
  constructor(handlers) {
    this.#handlers = handlers;
    at("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    at("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      at("ask").requestSubmit();
    });
    at("prompt").addEventListener("input", fitPrompt);
    this.#tier.append(new Option("the council's", ""), ...TIERS.map((tier) => new Option(tier, tier)));
    this.#look();
    setInterval(() => {
      if (!document.hidden) this.#look();
    }, LOOK_FOR_MODELS_MS);
  }

  get isAsking() {
    return this.#isAsking;
  }

  // Asks once more what a session was asked, of the same members.
  again(session) {
    const { prompt, history, system, members, sync, weighting } = session;
    const weights = Object.fromEntries(members.filter((each) => each.weight !== 1).map((each) => [each.name, each.weight]));
    const text = history.length ? { messages: [...history, { role: "user", content: prompt }] } : { prompt };
    return this.#open({ ...text, system, weights, sync, weighting, models: members.map(described) });
  }

  async #send() {
    if (this.#models.isEmptied()) {
      this.#handlers.onRefused("No model is chosen: tick at least one.");
      return;
    }
    const prompt = at("prompt").value;
    // Who types on meanwhile keeps that.
    if ((await this.#open({ prompt, models: this.#models.chosen() })) && at("prompt").value === prompt) {
      at("prompt").value = "";
      fitPrompt();
    }
  }

  async #open(request) {
    if (this.#isAsking) return false;
    this.#isAsking = true;
    this.#handlers.onAsking();
    try {
      const tier = this.#tier.value ? { tier: this.#tier.value } : {};
      const opened = await openSession({ ...request, ...tier, allow_remote: this.#models.goesOut() });
      this.#handlers.onOpened(opened, request);
      return true;
    } catch (error) {
      this.#handlers.onRefused(error.message);
      return false;
    } finally {
      this.#isAsking = false;
    }
  }

  async #look() {
    try {
      const served = await getModels();
      this.targetFps = served.target_fps;
      setText(this.#tier.options[0], `${served.tier} (the council's)`);
      this.#models.show(served);
    } catch (error) {
      this.#models.miss(error.message);
    }
  }
}

// A member as POST /api/sessions takes it: with its name, its options and its system text, so that it is asked the same.
function described({ model, name, sampling, system }) {
  return { model, name: name === model ? "" : name, ...sampling, system };
}

// Where `field-sizing` is not known, the box grows by hand.
function fitPrompt() {
  if (CSS.supports("field-sizing", "content")) return;
  const box = at("prompt");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}
