// The tree of what-ifs: the first answer, the branches of it and theirs, and what each change has changed.

import { getEffect } from "../council/api.js";
import { familyOf, textBefore } from "../council/family.js";
import { byId, element, setText } from "../elements.js";

// So much of the text before a change is shown.
const BEFORE_LETTERS = 32;
// While an answer of the tree is written.
const READ_MS = 4_000;

export class Branches {
  #root = byId("branches");
  #tree = byId("branch-tree");
  #effect = byId("effect");
  #onOpen;
  #session = null;
  #nodes = [];
  // The effects of branches that have ended, in words, by session: {sentence, short}.
  #effects = new Map();
  #requested = 0;
  #timer = 0;

  // onOpen(session) when the user picks one.
  constructor(onOpen) {
    this.#onOpen = onOpen;
    this.#tree.addEventListener("keydown", (event) => this.#press(event));
    this.#tree.addEventListener("click", (event) => {
      const item = event.target.closest("[role=treeitem]");
      if (item) this.#open(this.#items().indexOf(item));
    });
  }

  // Begins another session; null while it is unknown: until then the tree stays, and keeps the focus.
  begin(session) {
    this.#requested += 1;
    clearTimeout(this.#timer);
    if (session === null) return;
    this.#session = session;
    this.#root.hidden = true;
    this.read();
  }

  // Reads the tree again, because the shown session has ended. `known` are the sessions that are not fetched again.
  async read(known = new Map()) {
    const session = this.#session;
    if (!session?.parent && !session?.branches?.length) return;
    const requested = ++this.#requested;
    clearTimeout(this.#timer);
    this.#root.hidden = false;
    let isSettled = false;
    try {
      const nodes = await familyOf(session, known);
      await Promise.all(nodes.map((node) => this.#learn(node)));
      if (requested !== this.#requested) return;
      this.#show(nodes);
      isSettled = nodes.every(({ isGone, status }) => isGone || status === "ended");
    } catch (error) {
      if (requested !== this.#requested) return;
      setText(this.#effect, error.message);
    }
    if (!isSettled) this.#timer = setTimeout(() => this.read(known), READ_MS);
  }

  // Fetches the effect of a branch that has ended, until no answer changes any more.
  async #learn({ session, change, status }) {
    if (!change || status !== "ended" || this.#effects.has(session)) return;
    try {
      const effect = await getEffect(session);
      if (effect.final) this.#effects.set(session, inWords(effect.members));
    } catch (error) {
      // The branch was deleted after the tree was read.
      if (error.status !== 404) throw error;
    }
  }

  #show(nodes) {
    const hadFocus = this.#tree.contains(document.activeElement);
    this.#nodes = nodes;
    this.#root.hidden = false;
    const shown = nodes.findIndex(({ session }) => session === this.#session.session);
    const node = nodes[shown];
    this.#tree.replaceChildren(...nodes.map((each) => this.#item(each, each === node)));
    this.#point(shown, hadFocus);
    setText(this.#effect, node.change ? this.#sentenceOf(node) : "This answer stays as it is; its branches are below it.");
  }

  #sentenceOf({ session }) {
    return this.#effects.get(session)?.sentence ?? "The effect is shown when both answers have ended.";
  }

  #item(node, isShown) {
    const item = element("li", "branch", ...(node.change ? changeNodes(node) : firstNodes(node)));
    // That of the shown answer stands above the tree.
    if (node.change && !isShown) item.append(element("span", "quiet", this.#effects.get(node.session)?.short ?? ""));
    if (node.replay_of) item.append(element("span", "quiet", "replay"));
    item.setAttribute("role", "treeitem");
    item.setAttribute("aria-level", String(node.depth));
    item.setAttribute("aria-selected", String(isShown));
    const siblings = this.#nodesOf(node.parent);
    item.setAttribute("aria-setsize", String(siblings.length));
    item.setAttribute("aria-posinset", String(siblings.indexOf(node) + 1));
    if (node.isGone) item.setAttribute("aria-disabled", "true");
    item.style.setProperty("--depth", String(node.depth - 1));
    item.tabIndex = -1;
    return item;
  }

  #nodesOf(parent) {
    return this.#nodes.filter((node) => node.parent === parent);
  }

  #items() {
    return [...this.#tree.children];
  }

  // Up and down through all, left to the parent, right to the first branch, Home, End; Enter and space open one.
  #press(event) {
    const at = this.#items().indexOf(document.activeElement);
    if (at < 0) return;
    const node = this.#nodes[at];
    const steps = {
      ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: this.#nodes.length - 1,
      ArrowLeft: this.#nodes.indexOf(node.parent), ArrowRight: this.#nodes.findIndex(({ parent }) => parent === node),
    };
    if (event.key === "Enter" || event.key === " ") this.#open(at);
    else if (event.key in steps) this.#point(steps[event.key], true);
    else return;
    event.preventDefault();
  }

  // Makes this item the one that Tab reaches.
  #point(at, withFocus) {
    const items = this.#items();
    if (!items[at]) return;
    for (const item of items) item.tabIndex = -1;
    items[at].tabIndex = 0;
    if (withFocus) items[at].focus();
  }

  #open(at) {
    const node = this.#nodes[at];
    if (node.isGone || node.session === this.#session.session) return;
    this.#point(at, true);
    this.#onOpen(node.session);
  }
}

function firstNodes({ isGone, names }) {
  if (isGone) return [element("span", "", "An answer that is no longer in Redis")];
  return [element("span", "", "The first answer"), element("span", "quiet", names.join(", "))];
}

// The end of the common text, the word that was put there, and the word that stood there.
function changeNodes({ prefix, change }) {
  const { byte, word, instead } = change;
  const before = textBefore(prefix, byte);
  const start = before.length > BEFORE_LETTERS ? `…${before.slice(-BEFORE_LETTERS).replace(/^\S*\s(?=\S)/, " ")}` : before;
  const space = /^\s/.test(word) ? " " : "";
  const line = element("span", "", element("span", "quiet", start), space, element("mark", "changed", word.trim()));
  if (instead) line.append(element("span", "quiet", " in place of "), `“${instead.trim()}”`);
  return [line];
}

// What a change has changed, of all members, as {sentence, short}; null: its parent is gone.
function inWords(effects) {
  if (effects === null) return { sentence: "The council no longer has the answer from which this one branches.", short: "" };
  return { sentence: ofAll(effects, sentenceOf, "\n", ": "), short: ofAll(effects, shortOf, " · ", " ") };
}

// Once, if it is the same for all members; else of each.
function ofAll(effects, textOf, between, behindName) {
  const texts = effects.map(textOf);
  if (new Set(texts).size <= 1) return texts[0] ?? "";
  return effects.map(({ member }, index) => `${member}${behindName}${texts[index]}`).join(between);
}

const shownWords = (count) => (count === 1 ? "1 word" : `${count} words`);

function shortOf({ byte, reach_words: words, together_again: again }) {
  if (byte === null) return "changes nothing";
  return again ? `changes ${shownWords(words)}` : "changes all to the end";
}

function sentenceOf({ byte, reach_words: words, together_again: again, last_words: last, last_words_differ: differ }) {
  if (byte === null) return "Both are the same.";
  if (again) return `The change reaches ${shownWords(words)}; after that both are the same.`;
  const [one, other] = last.map(shownLast);
  if (!differ) return `They do not come together again, but the last words are the same: ${other}.`;
  return `They do not come together again; the last words differ: ${one}, ${other}.`;
}

// Several words are quoted; a point at their end would end the sentence.
function shownLast(words) {
  const text = words.replace(/[.!?…]+$/, "");
  return text.includes(" ") ? `“${text}”` : text || "nothing";
}
