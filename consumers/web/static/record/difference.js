// Where two texts part, and the words that only one of them has. After Myers, "An O(ND) Difference Algorithm" (1986), on
// words: the fewest removals and insertions.

// No more words are compared: longer texts that have parted differ throughout.
const MOST_WORDS = 4_000;
// The search ends after so many edits, and the rest counts as different. Its traces take 4 MB.
const MOST_EDITS = 1_000;

// A word or a sign, with the white space before it.
const WORD = /\s*[\p{L}\p{N}]+|\s*[^\s\p{L}\p{N}]|\s+$/gu;

// The length of the common prefix of two texts, in UTF-16 units; never between two surrogates.
export function sharedLength(one, other) {
  let at = 0;
  while (at < one.length && at < other.length && one[at] === other[at]) at += 1;
  const half = one.charCodeAt(at - 1);
  return at > 0 && half >= 0xd800 && half < 0xdc00 ? at - 1 : at;
}

// The parts of both texts and of only one, in order: {kind: "same" | "one" | "other", text}; isAll is true if the texts were
// compared to their ends.
export function difference(one, other) {
  const [a, b] = [words(one), words(other)];
  const [shortA, shortB] = [a.slice(0, MOST_WORDS), b.slice(0, MOST_WORDS)];
  const { edits, isWhole } = edit(shortA, shortB);
  const parts = [];
  for (const [kind, word] of edits) {
    const last = parts.at(-1);
    if (last?.kind === kind) last.text += word;
    else parts.push({ kind, text: word });
  }
  const isAll = isWhole && a.length === shortA.length && b.length === shortB.length;
  return { parts: ordered(parts), isAll };
}

export function words(text) {
  return text.match(WORD) ?? [];
}

// Between two common parts: first all of the one text, then all of the other.
function ordered(parts) {
  const out = [];
  for (const part of parts) {
    const [last, before] = [out.at(-1), out.at(-2)];
    const isTurned = part.kind === "one" && last?.kind === "other";
    if (isTurned && before?.kind === "one") before.text += part.text;
    else if (isTurned) out.splice(out.length - 1, 0, part);
    else if (last?.kind === part.kind) last.text += part.text;
    else out.push(part);
  }
  return out;
}

// The edits in order as [kind, word].
function edit(a, b) {
  const most = Math.min(MOST_EDITS, a.length + b.length);
  const ends = new Int32Array(2 * most + 3);
  const traces = [];
  for (let d = 0; d <= most; d += 1) {
    traces.push(ends.slice(most - d, most + d + 3));
    for (let k = -d; k <= d; k += 2) {
      const at = k + most + 1;
      const isDown = k === -d || (k !== d && ends[at - 1] < ends[at + 1]);
      let x = isDown ? ends[at + 1] : ends[at - 1] + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      ends[at] = x;
      if (x >= a.length && x - k >= b.length) return { edits: walk(a, b, traces, d), isWhole: true };
    }
  }
  return { edits: given(a, b), isWhole: false };
}

// Follows the traces back from the end of both texts.
function walk(a, b, traces, last) {
  const edits = [];
  let [x, y] = [a.length, b.length];
  for (let d = last; d > 0; d -= 1) {
    const ends = traces[d];
    const end = (k) => ends[k + d + 1];
    const k = x - y;
    const isDown = k === -d || (k !== d && end(k - 1) < end(k + 1));
    const before = isDown ? k + 1 : k - 1;
    const start = end(before);
    const [fromX, fromY] = [start, start - before];
    while (x > fromX && y > fromY) {
      edits.push(["same", a[(x -= 1)]]);
      y -= 1;
    }
    if (isDown) edits.push(["other", b[(y -= 1)]]);
    else edits.push(["one", a[(x -= 1)]]);
  }
  while (x > 0) edits.push(["same", a[(x -= 1)]]);
  return edits.reverse();
}

// The edits of texts that differ too much: the common prefix, then the rest of each.
function given(a, b) {
  let at = 0;
  while (at < a.length && at < b.length && a[at] === b[at]) at += 1;
  return [
    ...a.slice(0, at).map((word) => ["same", word]),
    ...a.slice(at).map((word) => ["one", word]),
    ...b.slice(at).map((word) => ["other", word]),
  ];
}
