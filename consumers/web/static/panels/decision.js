// The evidence of a word that the members wrote together: who would have written what, and how the council decided.

import { isParting } from "../record/agreed.js";
import { shownShare, visible } from "./evidence.js";

const CERTAINTIES = {
  certain: "Certain: longer lists could not change it.",
  estimate: "An estimate: longer lists could change it.",
};

// The word at {start, end} of the agreed text; names are the members'. With it the decision that was contested most, null for
// none.
export function wordEvidence(agreed, { start, end }, names) {
  const decisions = agreed.decisionsIn(start, end);
  const parted = decisions.filter(isParting);
  const decision = parted.toSorted((one, other) => (one.share ?? 1) - (other.share ?? 1))[0] ?? null;
  const title = visible(textIn(agreed, start, end));
  const place = { label: "Position", name: "at, end", value: `${start}–${end}`, unit: "bytes" };
  const sentence = parted.map((each) => partingSentence(each, names)).join(" ") || calmSentence(decisions);
  if (!decision) return { decision, title, sentence, rows: [place], pieces: null, note: "" };
  const won = textIn(agreed, decision.at, decision.end);
  const pieces = [{ text: won, probability: decision.share ?? 0, isWritten: true }];
  if (decision.runner_up !== null) {
    pieces.push({ text: decision.runner_up, probability: decision.runner_up_share ?? 0, isBeginning: true });
  }
  const jsd = decision.jsd === null ? "not measured" : String(decision.jsd);
  const rows = [
    { label: "Decided", name: "kind", value: decision.kind, unit: "" },
    { label: "Disagreement", name: "jsd", value: jsd, unit: decision.jsd === null ? "" : "0…1" },
    { ...place, value: `${decision.at}–${decision.end}` },
  ];
  const note = `${CERTAINTIES[decision.kind]} A share is the least that the council as a whole gives to a text.`;
  return { decision, title, sentence, rows, pieces, note };
}

// The same in one sentence, for screen readers.
export function spokenWord(agreed, { start, end }, { sentence, decision }) {
  const share = decision ? ` ${shownShare(decision.share ?? 0)} of the council; ${decision.kind}.` : "";
  return `${textIn(agreed, start, end).trim()}: ${sentence}${share}`;
}

function partingSentence({ by, against, runner_up: next }, names) {
  const name = (index) => `${index + 1} ${names[index]}`;
  const taken = by === null ? "The drafts parted." : `The drafts parted, and the council took that of ${name(by)}.`;
  if (against.length === 0) return taken;
  return `${taken} ${othersSentence(against.map(name), next)} Each member whose draft differed was steered.`;
}

// How the other drafts began, at the first letter in which they differ.
function othersSentence(names, next) {
  if (names.length > 1) {
    const likeliest = next === null ? "" : `; the likeliest of them continued with ${shownBeginning(next)}`;
    return `The drafts of ${names.slice(0, -1).join(", ")} and ${names.at(-1)} began otherwise${likeliest}.`;
  }
  return `The draft of ${names[0]} continued with ${next === null ? "another text" : shownBeginning(next)}.`;
}

const shownBeginning = (text) => (text === "" ? "the end of the answer" : `“${text.trim() || visible(text)}…”`);

function calmSentence(decisions) {
  if (decisions.length === 0) return "How this was decided is not known: it was given to the council, or is too long ago.";
  if (decisions.some(({ kind }) => kind === "followed")) return "One member alone wrote this.";
  return "All drafts were the same.";
}

const textIn = (agreed, from, to) => agreed.text.slice(agreed.offsetAt(from), agreed.offsetAt(to));
