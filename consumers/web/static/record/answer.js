// One growing text of a member, and its tokens.
//
//   text      \n T h e _ s k y _ i s …        JavaScript's offsets, in UTF-16 units
//   bytes        0   3       7     10         the frames' positions: UTF-8, from the first byte that is not white space
//   tokens       [The] [ sky] [ is]           in bytes, with their probabilities
//
// Tokens come with the frames. The tokens of text that is older than the first frame are unknown until they are fetched;
// `#unknown` contains their ranges.

// The ASCII white space before the text; positions do not count it.
const LEADING = /^[ \t\n\r\v\f]*/;
// Offsets are counted unit by unit from the nearest step before them.
const UNITS_PER_STEP = 256;

export class Answer {
  text = "";
  // In the order of their starts: {start, end, logprob, quality}.
  tokens = [];
  // Rises whenever tokens are added.
  version = 0;
  // True where some of the text may be given to the member: by the council, or as the prefix of a what-if.
  hasGiven = false;
  // Text before this byte that no token covers is given; later text may still get its token.
  givenTo = 0;

  #unknown = [];
  #lead = 0;
  // Pairs of an offset and its byte.
  #steps = [[0, 0]];

  // Sets the whole text so far, of which the current text is the beginning.
  begin(text) {
    const known = this.byteAt(this.text.length);
    this.append(text.slice(this.text.length));
    const end = this.byteAt(this.text.length);
    if (end > known) this.#unknown.push({ from: known, to: end });
  }

  append(text) {
    if (!text) return;
    const wasEmpty = this.#lead === this.text.length;
    this.text += text;
    if (wasEmpty) {
      this.#lead = LEADING.exec(this.text)[0].length;
      this.#steps = [[this.#lead, 0]];
    }
    this.#measure();
  }

  // Adds steps up to the end, so that no offset is far from one.
  #measure() {
    let [letter, byte] = this.#steps.at(-1);
    while (this.text.length - letter > UNITS_PER_STEP) {
      const end = this.#boundary(letter + UNITS_PER_STEP);
      byte += utf8Length(this.text, letter, end);
      letter = end;
      this.#steps.push([letter, byte]);
    }
  }

  // An offset that is not between two surrogates.
  #boundary(offset) {
    const half = this.text.charCodeAt(offset);
    return half >= 0xdc00 && half < 0xe000 ? offset + 1 : offset;
  }

  // The byte at an offset of the text.
  byteAt(offset) {
    if (offset <= this.#lead) return 0;
    const [letter, byte] = this.#steps[lastAtMost(this.#steps, 0, offset)];
    return byte + utf8Length(this.text, letter, offset);
  }

  // The offset of the character that contains this byte; the end of the text for a byte past it.
  offsetAt(byte) {
    if (!(byte > 0)) return byte === 0 ? this.#lead : this.text.length;
    let [letter, at] = this.#steps[lastAtMost(this.#steps, 1, byte)];
    while (letter < this.text.length) {
      const length = utf8LengthAt(this.text, letter);
      if (at + length > byte) break;
      at += length;
      letter += length === 4 ? 2 : 1;
    }
    return letter;
  }

  // Adds a token of a frame; these come in order.
  add({ start, end, logprob, quality }) {
    // From its first frame on a text has all its tokens.
    for (const range of this.#unknown) if (start < range.to && end > range.from) range.to = start;
    this.#unknown = this.#unknown.filter((range) => range.from < range.to);
    this.version += 1;
    if (end === start) return;
    if (start >= (this.tokens.at(-1)?.end ?? 0)) this.tokens.push({ start, end, logprob, quality });
    else this.#insert({ start, end, logprob, quality });
  }

  // Adds fetched tokens: those in the bytes [from, to) are no longer unknown.
  learn(tokens, from, to) {
    for (const token of tokens) if (token.end > token.start) this.#insert(token);
    this.#unknown = this.#unknown.flatMap((range) => without(range, from, to));
    this.version += 1;
  }

  #insert({ start, end, logprob, quality }) {
    const before = lastAtMost(this.tokens, "start", start);
    if (this.tokens[before]?.start === start) return;
    this.tokens.splice(before + 1, 0, { start, end, logprob, quality });
  }

  // The first part of the bytes [from, to) whose tokens are unknown, as {from, to}; undefined if all are known.
  unknownIn(from, to) {
    const range = this.#unknown.find((each) => each.from < to && each.to > from);
    return range && { from: Math.max(from, range.from), to: Math.min(to, range.to) };
  }

  // The end of the text that was given to the member and begins at this byte, which no token covers; the same byte if it is
  // not known to be given.
  givenEnd(byte) {
    if (!this.hasGiven) return byte;
    const next = this.tokens[this.tokenAfter(byte)];
    const unknown = this.unknownIn(byte, next?.start ?? Infinity);
    const end = Math.min(next?.start ?? Math.max(byte, this.givenTo), unknown?.from ?? Infinity);
    return Math.max(byte, end);
  }

  // The index of the token that covers a byte; -1 for none.
  tokenAt(byte) {
    const index = lastAtMost(this.tokens, "start", byte);
    return index >= 0 && this.tokens[index].end > byte ? index : -1;
  }

  // The index of the first token that ends after a byte.
  tokenAfter(byte) {
    const index = lastAtMost(this.tokens, "start", byte);
    return index >= 0 && this.tokens[index].end > byte ? index : index + 1;
  }
}

// The index of the last of the items, which rise by `key`, that is at most the value; -1 for none.
export function lastAtMost(items, key, value) {
  let [low, high] = [0, items.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (items[middle][key] <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function without(range, from, to) {
  const rest = [
    { from: range.from, to: Math.min(range.to, from) },
    { from: Math.max(range.from, to), to: range.to },
  ];
  return rest.filter((each) => each.from < each.to);
}

function utf8Length(text, from, to) {
  let bytes = 0;
  for (let at = from; at < to; ) {
    const length = utf8LengthAt(text, at);
    bytes += length;
    at += length === 4 ? 2 : 1;
  }
  return bytes;
}

function utf8LengthAt(text, at) {
  const unit = text.charCodeAt(at);
  if (unit < 0x80) return 1;
  if (unit < 0x800) return 2;
  // Text from JSON in UTF-8 has only complete pairs of surrogates.
  return unit >= 0xd800 && unit < 0xdc00 ? 4 : 3;
}
