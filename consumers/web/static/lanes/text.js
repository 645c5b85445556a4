// A growing text, each token shaded by its surprisal.
//
// Text of a model only becomes the data of text nodes, never markup. The whole text is in the document, so that it can be
// searched, selected and read aloud; but only tokens in or near the visible part have an element of their own. A text
// consists of blocks, and a block is either one text node or its tokens:
//
//   [block: text node] [block: <span>The</span><span> sky</span>… tail] …
//                                                                  text without a whole token yet

import { givenElement, nodesOf, tokenElement } from "./pieces.js";
import { surprisalClass } from "./shades.js";

// A block ends at the first new line after so many letters, or at a space before it becomes too long.
const BLOCK_LETTERS = 600;
const LONGEST_BLOCK_LETTERS = 2_400;
// If the reader has scrolled up by more than this, new text does not scroll.
const NEAR_END_PX = 32;

export class GrowingText {
  #answer;
  #blocks = [];
  #shown = 0;
  #version = 0;
  #watch;
  #onUnknown;
  #current = null;
  #forkByte = null;
  #forkAt = -1;
  // The text that a what-if put there, in bytes, and in offsets once the text reaches it.
  #changeBytes = null;
  #change = null;
  #shadeOf;

  // onToken(start of a token in bytes, its element, isByKey) when the pointer or a key reaches one, onChoose(the same) on a
  // click or Enter, onLeave() when it leaves (false: the token stays marked), onUnknown({from, to}) when text without known
  // tokens becomes visible. shadeOf(token) is its class.
  constructor(answer, label, { onToken, onChoose, onLeave, onUnknown, shadeOf = surprisalClass } = {}) {
    this.#answer = answer;
    [this.#onUnknown, this.#shadeOf] = [onUnknown, shadeOf];
    this.element = document.createElement("div");
    this.element.className = "text";
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "region");
    this.element.setAttribute("aria-label", label);
    this.#watch = new IntersectionObserver((entries) => this.#sight(entries), { root: this.element, rootMargin: "60%" });
    if (onToken) this.#listen(onToken, onChoose, onLeave);
  }

  // Shows so much of the answer. True if something has changed.
  draw(length) {
    if (length === this.#shown && this.#version === this.#answer.version) return false;
    const box = this.element;
    const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
    this.#divide();
    this.#placeFork();
    this.#placeChange();
    for (const block of this.#blocks) this.#show(block, Math.min(block.end, length));
    this.#shown = length;
    this.#version = this.#answer.version;
    if (isAtEnd) box.scrollTop = box.scrollHeight;
    return true;
  }

  // Draws these bytes again, because their tokens became known.
  refresh({ from, to }) {
    const [first, last] = [this.#answer.offsetAt(from), this.#answer.offsetAt(to)];
    for (const block of this.#blocks) if (block.start < last && block.end > first) this.#refill(block);
  }

  // Shows a fork in the text, at the byte where the members parted.
  showFork(byte) {
    this.#forkByte = byte;
    this.#moveFork(-1);
    this.#placeFork();
  }

  // Places the fork as soon as the text reaches that byte.
  #placeFork() {
    if (this.#forkByte === null || this.#forkAt >= 0) return;
    const { text } = this.#answer;
    if (this.#answer.byteAt(text.length) > this.#forkByte) this.#moveFork(this.#answer.offsetAt(this.#forkByte));
  }

  #moveFork(offset) {
    const touched = [this.#forkAt, offset];
    this.#forkAt = offset;
    for (const block of this.#blocks) if (touched.some((at) => block.start <= at && at < block.end)) this.#refill(block);
  }

  // Marks the bytes {from, to}, without the white space around them, as the text that a what-if put there.
  showChange(bytes) {
    this.#changeBytes = bytes;
  }

  #placeChange() {
    const { text } = this.#answer;
    if (!this.#changeBytes || this.#change || this.#answer.byteAt(text.length) < this.#changeBytes.to) return;
    const [from, to] = [this.#changeBytes.from, this.#changeBytes.to].map((byte) => this.#answer.offsetAt(byte));
    const word = text.slice(from, to);
    const start = from + word.length - word.trimStart().length;
    this.#change = { from: start, to: start + word.trim().length };
    for (const block of this.#blocks) if (block.start < to && block.end > from) this.#refill(block);
  }

  // Scrolls to an offset, or to the fork before it.
  reveal(offset) {
    const block = this.#blocks.find((each) => each.start <= offset && offset < each.end);
    if (!block || block.element.hidden) return;
    if (!block.isRich) this.#enrich(block, true);
    const target = block.element.querySelector(".fork") ?? block.element;
    const box = this.element.getBoundingClientRect();
    this.element.scrollTop += target.getBoundingClientRect().top - box.top - box.height / 3;
    target.scrollIntoView({ block: "nearest" });
  }

  close() {
    this.#watch.disconnect();
  }

  // --- blocks ---

  // Adds new text to the last block until that is long enough.
  #divide() {
    const { text } = this.#answer;
    let last = this.#blocks.at(-1);
    if (last && !last.isClosed) last.end = text.length;
    else if (text.length > (last?.end ?? 0)) last = this.#open(last?.end ?? 0);
    while (last && !last.isClosed) {
      const end = endOfBlock(text, last.start);
      if (end < 0) return;
      [last.end, last.isClosed] = [end, true];
      if (end < text.length) last = this.#open(end);
    }
  }

  #open(start) {
    const element = document.createElement("div");
    // `final`: the end of the token elements; the text after it is in `tail`.
    const end = this.#answer.text.length;
    const block = { element, start, end, isClosed: false, isRich: false, isSettled: false, shown: start, final: start, tail: null };
    this.#blocks.push(block);
    this.element.append(element);
    this.#watch.observe(element);
    return block;
  }

  #show(block, end) {
    if (block.isSettled && end === block.shown) return;
    block.element.hidden = end <= block.start;
    if (end < block.shown) this.#clear(block);
    block.shown = Math.max(end, block.start);
    if (end > block.start) this.#fill(block);
  }

  #clear(block) {
    block.element.replaceChildren();
    [block.shown, block.final, block.tail, block.isSettled] = [block.start, block.start, null, false];
  }

  #refill(block) {
    const { shown } = block;
    this.#clear(block);
    this.#show(block, shown);
  }

  #fill(block) {
    if (block.isRich) this.#addTokens(block);
    block.tail ??= block.element.appendChild(document.createTextNode(""));
    const rest = this.#answer.text.slice(block.final, block.shown);
    if (block.tail.data !== rest) {
      if (rest.startsWith(block.tail.data)) block.tail.appendData(rest.slice(block.tail.length));
      else block.tail.data = rest;
    }
    const lastByte = this.#answer.tokens.at(-1)?.end ?? 0;
    const isWhole = block.isClosed && block.shown === block.end;
    const isLast = !block.isRich || block.final === block.end || lastByte > this.#answer.byteAt(block.end);
    block.isSettled = isWhole && isLast;
  }

  // Adds elements for the whole tokens up to the shown end.
  #addTokens(block) {
    const { tokens } = this.#answer;
    const made = [];
    for (let index = this.#answer.tokenAfter(this.#answer.byteAt(block.final)); index < tokens.length; index += 1) {
      const token = tokens[index];
      const [start, end] = [this.#answer.offsetAt(token.start), this.#answer.offsetAt(token.end)];
      // A token that continues in the next block is in both.
      const isWhole = end <= block.shown || (block.isClosed && block.shown === block.end);
      if (start >= block.shown || !isWhole) break;
      const from = Math.max(start, block.final);
      const to = Math.min(end, block.shown);
      if (to <= from) continue;
      made.push(...this.#gap(block.final, from), tokenElement(token, this.#shadeOf(token), this.#nodes(from, to)));
      block.final = to;
    }
    const given = this.#answer.offsetAt(this.#answer.givenEnd(this.#answer.byteAt(block.final)));
    const to = Math.min(given, block.shown);
    if (to > block.final) made.push(...this.#gap(block.final, to));
    block.final = Math.max(block.final, to);
    if (made.length === 0) return;
    block.tail?.remove();
    block.tail = null;
    block.element.append(...made);
  }

  // The text between two tokens; marked if it is known that it was given to the member.
  #gap(from, to) {
    if (to <= from || this.#answer.givenEnd(this.#answer.byteAt(from)) < this.#answer.byteAt(to)) return this.#nodes(from, to);
    const space = /^\s*/.exec(this.#answer.text.slice(from, to))[0].length;
    const given = this.#nodes(from + space, to);
    return [...this.#nodes(from, from + space), ...(given.length > 0 ? [givenElement(given)] : [])];
  }

  #nodes(from, to) {
    return nodesOf(this.#answer.text, from, to, this.#forkAt, this.#change);
  }

  // --- the visible part ---

  #sight(entries) {
    for (const { target, isIntersecting } of entries) {
      const block = this.#blocks.find((each) => each.element === target);
      if (block && block.isRich !== isIntersecting) this.#enrich(block, isIntersecting);
    }
  }

  #enrich(block, isRich) {
    // The token that the keys have reached keeps its element.
    if (!isRich && this.#current && block.element.contains(this.#current)) return;
    block.isRich = isRich;
    this.#refill(block);
    if (!isRich || !this.#onUnknown) return;
    const unknown = this.#answer.unknownIn(this.#answer.byteAt(block.start), this.#answer.byteAt(block.end));
    if (unknown) this.#onUnknown(unknown);
  }

  // --- tokens under the pointer, a finger, or the keys ---

  #listen(onToken, onChoose, onLeave) {
    const tokenUnder = (event) => event.target.closest?.(".token");
    const point = (event) => {
      const token = tokenUnder(event);
      if (token) onToken(Number(token.dataset.start), token, false);
      else onLeave();
    };
    this.element.addEventListener("pointerover", point);
    this.element.addEventListener("pointerdown", point);
    this.element.addEventListener("click", (event) => {
      const token = tokenUnder(event);
      // The click that ends a selection chooses nothing.
      if (token && getSelection().isCollapsed) onChoose(Number(token.dataset.start), token, false);
    });
    this.element.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && onLeave());
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" || event.key === "Tab") {
        this.#mark(null);
        onLeave();
        return;
      }
      if (event.key === "Enter" && this.#current) {
        event.preventDefault();
        onChoose(Number(this.#current.dataset.start), this.#current, true);
        return;
      }
      const next = this.#next(event.key);
      if (!next) return;
      event.preventDefault();
      this.#mark(next);
      next.scrollIntoView({ block: "nearest" });
      onToken(Number(next.dataset.start), next, true);
    });
    this.element.addEventListener("blur", () => {
      if (this.#current && onLeave() !== false) this.#mark(null);
    });
  }

  #next(key) {
    const { tokens } = this.#answer;
    if (tokens.length === 0) return null;
    const current = this.#current ? this.#answer.tokenAt(Number(this.#current.dataset.start)) : -1;
    const steps = { ArrowRight: current + 1, ArrowLeft: current < 0 ? tokens.length - 1 : current - 1 };
    const index = steps[key];
    if (index === undefined || !tokens[index]) return null;
    const offset = this.#answer.offsetAt(tokens[index].start);
    if (offset >= this.#shown) return null;
    const block = this.#blocks.find((each) => each.start <= offset && offset < each.end);
    if (!block.isRich) this.#enrich(block, true);
    return block.element.querySelector(`[data-start="${tokens[index].start}"]`);
  }

  #mark(token) {
    this.#current?.classList.remove("current");
    this.#current = token;
    token?.classList.add("current");
  }
}

// The end of the block that begins there; -1 while it grows.
function endOfBlock(text, start) {
  if (text.length - start < BLOCK_LETTERS) return -1;
  const line = text.indexOf("\n", start + BLOCK_LETTERS);
  if (line >= 0 && line - start < LONGEST_BLOCK_LETTERS) return line + 1;
  if (text.length - start < LONGEST_BLOCK_LETTERS) return -1;
  const space = text.lastIndexOf(" ", start + LONGEST_BLOCK_LETTERS - 1);
  if (space > start) return space + 1;
  // Never between two surrogates.
  const end = start + LONGEST_BLOCK_LETTERS;
  return text.charCodeAt(end) >= 0xdc00 && text.charCodeAt(end) < 0xe000 ? end - 1 : end;
}
