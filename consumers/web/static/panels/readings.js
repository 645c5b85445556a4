// The readings: the measures of the shown window as numbers, and the pattern in words.

import { byId, setText } from "../elements.js";

// For members without probabilities the text that they wrote is compared.
const SOURCES = { mixed: "partly from text", text: "from text" };

export class Readings {
  begin(memberCount) {
    // Comparisons need two members.
    for (const reading of document.querySelectorAll(".between")) reading.hidden = memberCount < 2;
  }

  draw(frame, columns) {
    const isMeasured = frame.di_source === "logprobs";
    setText(byId("energy"), frame.energy.toFixed(2));
    setText(byId("wave"), frame.wave.toFixed(2));
    show(byId("diversity"), isMeasured ? frame.diversity_index.toFixed(2) : null);
    // The frame of a single member has a jsd of 0, which is not measured.
    show(byId("disagreement"), frame.jsd === null || frame.agreement === null ? null : frame.jsd.toFixed(2));
    show(byId("agreement"), frame.agreement === null ? null : frame.agreement.toFixed(2));
    setText(byId("agreement-source"), SOURCES[frame.agreement_source] ?? "");
    setText(byId("pattern"), shownPattern(frame, columns));
    byId("pattern").dataset.pattern = frame.resonance ? "resonance" : frame.interference;
    show(byId("compares"), shownComparison(frame, columns));
    show(byId("lag"), shownMs(frame.sync_lag_ms));
    show(byId("skew"), shownMs(frame.arrival_skew_ms));
    setText(byId("mode"), frame.mode);
    setText(byId("window"), frame.window_index.toLocaleString("en").replaceAll(",", "\u202f"));
  }
}

// Before they part, the members are compared at the continuation of one text; afterwards at the same position of their own
// texts. The parting stays when fewer than two members are compared.
function shownComparison(frame, columns) {
  if (columns.isTogether) return frame.compares ? "the next text of all" : null;
  if (frame.compares === "next") return "same text so far";
  const here = frame.compares === "place" ? "same position" : "";
  const parted = columns.partedAt(frame.window_index);
  if (parted !== null) return [here, `parted at byte ${parted}`].filter(Boolean).join(", ");
  // Text that was released before it could be compared: the byte of the parting is unknown.
  if (here) return here;
  return columns.lastCompared(frame.window_index) === "next" ? "never parted" : null;
}

const PATTERNS = {
  constructive: "The answers agree (constructive interference)",
  destructive: "The answers differ (destructive interference)",
  neutral: "The answers partly agree (neutral)",
};

// Of members that write one answer together.
const TOGETHER = {
  constructive: "The members agree on the next text (constructive interference)",
  destructive: "The members differ on the next text (destructive interference)",
  neutral: "The members partly agree on the next text (neutral)",
};

function shownPattern(frame, columns) {
  if (frame.resonance) return "The answers keep agreeing (resonance)";
  if (frame.agreement !== null) return (columns.isTogether ? TOGETHER : PATTERNS)[frame.interference];
  if (columns.lastCompared(frame.window_index) === null) return "Nothing to compare yet";
  return frame.final ? "The session has ended" : "One member is left";
}

function shownMs(ms) {
  return ms === null ? null : `${Math.round(ms)} ms`;
}

function show(node, text) {
  node.classList.toggle("unmeasured", text === null);
  setText(node, text ?? "not measured");
}
