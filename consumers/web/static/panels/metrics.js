// The metrics of each picture: label, name in a frame, and unit.

const plain = (label, name, unit) => ({ label, name, unit, value: (frame) => frame[name] });
const each = (label, name, unit) => ({ label, name, unit, isEach: true, value: (member) => member[name] });

const ENERGY = plain("Energy of the ensemble", "energy", "0…1");
const MEMBER_ENERGY = each("Energy", "energy", "0…1");
const AGREEMENT = plain("Agreement", "agreement", "0…1");

const BRAID = [
  ENERGY,
  plain("Wave (the cord)", "wave", "0…1"),
  MEMBER_ENERGY,
  AGREEMENT,
  plain("… measured from", "agreement_source", ""),
  plain("… compared at", "compares", ""),
  plain("Interference", "interference", ""),
  plain("Wave above every member", "amplified", ""),
  plain("Wave below the members' mean", "dampened", ""),
  plain("Resonance", "resonance", ""),
  plain("Parted at", "diverged_at_bytes", "bytes"),
  plain("Frontier", "frontier_bytes", "bytes"),
  plain("Agreed", "agreed_bytes", "bytes"),
];
const ENERGIES = [
  ENERGY,
  MEMBER_ENERGY,
  each("Certainty", "certainty", "0…1"),
  each("Pace", "tokens_per_s", "tokens/s"),
];
const DIVERSITY = [
  plain("Diversity index", "diversity_index", "0…1"),
  plain("… from", "di_source", ""),
  plain("… lower bound", "di_low", "0…1"),
  plain("… of the measured members", "di_covered", "0…1"),
  plain("… their share of the weights", "coverage", "0…1"),
  plain("… of the common span", "di_span", "0…1"),
  plain("… length of the span", "span_bytes", "bytes"),
];
const DISAGREEMENT = [
  plain("Disagreement", "jsd", "0…1"),
  plain("Entropy of the council", "entropy_total", "nats"),
  plain("Mean entropy of the members", "entropy_within", "nats"),
  plain("Probability that the lists cover", "coverage_mass", "0…1"),
];
const LAG = [
  plain("Sync lag", "sync_lag_ms", "ms"),
  plain("Arrival skew", "arrival_skew_ms", "ms"),
  plain("Mode", "mode", ""),
  each("Buffered", "buffered_tokens", "tokens"),
  plain("Late entries in this window", "late", ""),
  plain("Discarded tokens in this window", "superseded", ""),
];

const TRACKS = { braid: BRAID, energy: ENERGIES, diversity: DIVERSITY, disagreement: DISAGREEMENT, lag: LAG };
export const TITLES = {
  braid: "The braid", energy: "Energy", diversity: "Diversity", disagreement: "Disagreement", lag: "Sync",
  all: "All numbers",
};

// The rows {label, name in the frame, value, unit} of a picture; of "all", those of all pictures.
export function evidenceOf(track, frame) {
  const metrics = track === "all" ? [...new Set(Object.values(TRACKS).flat())] : TRACKS[track];
  return metrics.flatMap((metric) => (metric.isEach ? rowsOfMembers(metric, frame) : [row(metric, frame, metric.label, metric.name)]));
}

function rowsOfMembers(metric, frame) {
  return frame.members.map((member, index) =>
    row(metric, member, `${metric.label} of ${index + 1} ${member.name}`, `members[${index}].${metric.name}`),
  );
}

function row(metric, holder, label, name) {
  const value = metric.value(holder);
  return { label, name, value: value === null ? "not measured" : String(value), unit: value === null ? "" : metric.unit };
}
