// The readings: the numbers of the window that is looked at, and in words what they mean.

import { at, setText } from "../elements.js";

// Where not all members sent probabilities, what they wrote counts instead.
const SOURCES = { mixed: "in part by text", text: "by text" };

export class Readings {
  begin(memberCount) {
    // One member has nobody to agree with.
    for (const reading of document.querySelectorAll(".between")) reading.hidden = memberCount < 2;
  }

  draw(frame, columns) {
    const isMeasured = frame.di_source === "logprobs";
    setText(at("energy"), frame.energy.toFixed(2));
    setText(at("wave"), frame.wave.toFixed(2));
    show(at("diversity"), isMeasured ? frame.diversity_index.toFixed(2) : null);
    // One alone disagrees with nobody, which is no measurement.
    show(at("disagreement"), frame.jsd === null || frame.agreement === null ? null : frame.jsd.toFixed(2));
    show(at("agreement"), frame.agreement === null ? null : frame.agreement.toFixed(2));
    setText(at("agreement-source"), SOURCES[frame.agreement_source] ?? "");
    setText(at("pattern"), shownPattern(frame, columns));
    at("pattern").dataset.pattern = frame.resonance ? "resonance" : frame.interference;
    show(at("compares"), shownPlace(frame, columns));
    show(at("lag"), shownMs(frame.sync_lag_ms));
    show(at("skew"), shownMs(frame.arrival_skew_ms));
    setText(at("mode"), frame.mode);
    setText(at("window"), frame.window_index.toLocaleString("en").replaceAll(",", "\u202f"));
  }

}

// Before the members part they say what comes next; afterwards each is in a text of its own, and that stays so when there
// are no longer two of them.
function shownPlace(frame, columns) {
  if (frame.compares === "next") return "the same so far";
  const here = frame.compares === "place" ? "the same place" : "";
  const parted = columns.partedAt(frame.window_index);
  if (parted !== null) return [here, `parted at byte ${parted}`].filter(Boolean).join(", ");
  // Text that was let go before it could be compared: nobody knows where they parted.
  if (here) return here;
  return columns.lastCompared(frame.window_index) === "next" ? "never parted" : null;
}

const PATTERNS = {
  constructive: "They agree, and reinforce each other",
  destructive: "They disagree, and cancel each other",
  neutral: "They neither agree nor disagree",
};

function shownPattern(frame, columns) {
  if (frame.resonance) return "They agree so long that they resonate";
  if (frame.agreement !== null) return PATTERNS[frame.interference];
  if (columns.lastCompared(frame.window_index) === null) return "Nothing to compare yet";
  return frame.final ? "They have ended" : "One alone is left";
}

function shownMs(ms) {
  return ms === null ? null : `${Math.round(ms)} ms`;
}

function show(node, text) {
  node.classList.toggle("unmeasured", text === null);
  setText(node, text ?? "not measured");
}
