// The shades of tokens and of words, as classes of their elements.

// Each of these surprisals, in bits, shades a token by one more step.
const SURPRISAL_BITS = [0.5, 1, 2, 4, 7];
// Each of these shares of the council for other texts shades a word by one more step. A word at which the drafts parted has
// the first step at least.
const CONTESTS = [0, 0.2, 0.4, 0.6, 0.8];

export const surprisalBits = (logprob) => -logprob / Math.LN2;

export function surprisalClass({ logprob, quality }) {
  const isMeasured = quality === "real" && logprob !== null;
  return stepClass(isMeasured ? surprisalBits(logprob) : NaN, SURPRISAL_BITS);
}

export function contestClass({ contest, isParted, isAlone }) {
  return [stepClass(isParted ? contest : NaN, CONTESTS), isAlone ? "alone" : ""].filter(Boolean).join(" ");
}

function stepClass(value, steps) {
  const level = steps.filter((step) => value >= step).length;
  return level > 0 ? `s${level}` : "";
}
