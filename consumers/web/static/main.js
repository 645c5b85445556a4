// The page: a prompt, the members' answers, and their measures over time.
//
//   socket -> Following -> Record (all received frames) -> stage, lanes, readings, evidence: the playhead's window, drawn
//                                                          at the screen's next refresh
//
// One loop draws everything, and only after a change.

import { namedSession, showAddress } from "./council/address.js";
import { cancelMember, cancelSession, getSessions, getStatus } from "./council/api.js";
import { Following } from "./council/follow.js";
import { Drawing } from "./drawing.js";
import { byId, setText } from "./elements.js";
import { Lanes } from "./lanes/lanes.js";
import { Announcer } from "./panels/announcer.js";
import { Ask } from "./panels/ask.js";
import { Awaited } from "./panels/awaited.js";
import { Branches } from "./panels/branches.js";
import { Compare } from "./panels/compare.js";
import { Health } from "./panels/health.js";
import { Keep } from "./panels/keep.js";
import { setStatus, showError, showNote, statusText } from "./panels/notices.js";
import { Pointing } from "./panels/pointing.js";
import { Readings } from "./panels/readings.js";
import { Recordings } from "./panels/recordings.js";
import { Replay } from "./panels/replay.js";
import { Sessions } from "./panels/sessions.js";
import { Transport } from "./panels/transport.js";
import { WhatIf } from "./panels/what-if.js";
import { Record } from "./record/record.js";
import { Stage } from "./stage/stage.js";

// Numbers change once in so many windows: faster ones cannot be read.
const WINDOWS_PER_NUMBER = 12;
const SILENCE_MS = 4_000;
const STATUS_MS = 5_000;
const SECOND_MS = 1_000;

const readings = new Readings();
const announcer = new Announcer(byId("summary"), byId("pointed"));
const health = new Health(byId("health"));
const awaited = new Awaited(byId("awaited"), (index) => stopMember(following.session, index));
const compare = new Compare(byId("compare"));
const branches = new Branches((session) => follow(session));
const whatIf = new WhatIf(branched, () => ask.includesRemote);
const pointing = new Pointing(announcer, whatIf, redraw, () => stage.leave());
const keep = new Keep();
const transport = new Transport(redraw, jump);
const replay = new Replay(transport, redraw);
const lanes = new Lanes(byId("lanes"), {
  onStop: stopMember,
  onToken: (...token) => pointing.atToken(...token),
  onChoose: (...token) => pointing.holdToken(...token),
  onWord: (...word) => pointing.atWord(...word),
  onChooseWord: (...word) => pointing.holdWord(...word),
  onLeave: () => pointing.leave(),
  onUnknown: (index, range) => pointing.learn(index, range, (known) => lanes.refresh(index, known)),
});
const stage = new Stage(
  {
    braid: byId("braid"), energy: byId("energy-plot"), diversity: byId("diversity-plot"),
    disagreement: byId("disagreement-plot"), lag: byId("lag-plot"),
  },
  {
    onPoint: (...window) => pointing.atWindow(...window),
    onLeave: () => pointing.leave(),
    onPick: (window) => transport.hold(window),
  },
);
const drawing = new Drawing(draw, () => ask.targetFps);
const ask = new Ask({
  onAsking: () => {
    showError("");
    statusBefore = statusText();
    setStatus("Asking…");
  },
  onOpened: opened,
  onRefused: (message) => {
    showError(message);
    if (statusText() === "Asking…") setStatus(statusBefore);
  },
});

let following = null;
let record = null;
// True if this page opened the session.
let isOwn = false;
let runs = false;
// True if this page opened a replay that has sent no frame yet.
let wasPlayed = false;
let tier = "";
let numbersOf = -1;
let silenceTimer = 0;
let statusBefore = "";

// --- asking and stopping ---

function opened(answer, request) {
  // The previous session is no longer shown; it is cancelled if this page opened it.
  if (isRunning() && isOwn) cancelSession(following.session).catch(() => {});
  follow(answer.session, { prompt: request.prompt ?? "", openedTier: answer.tier });
  showNote(answer.warnings.join(" "));
}

// Follows a branch of the shown session, which stays as it is.
function branched(answer) {
  follow(answer.session, { prompt: record.session.prompt, openedTier: answer.tier });
  showNote(answer.warnings.join(" "));
}

async function stop() {
  if (!isRunning()) return;
  setStatus("Stopping…");
  await cancelSession(following.session).catch((error) => {
    showError(error.message);
    setStatus("The council is answering.");
  });
}

async function stopMember(session, index) {
  await cancelMember(session, index).catch((error) => showError(error.message));
}

function again() {
  if (record) ask.again(record.session);
}

const isRunning = () => following !== null && runs;

function showRunning(isSo) {
  runs = isSo;
  byId("stop-button").hidden = !runs;
}

// --- following ---

// Follows a session. A session that this page opened comes with its prompt; else GET returns it with the text so far.
function follow(session, { prompt = "", openedTier = "" } = {}) {
  following?.leave();
  isOwn = openedTier !== "";
  [record, tier, numbersOf] = [null, openedTier, -1];
  showError("");
  for (const part of [pointing, transport, replay, keep, branches]) part.begin(null);
  announcer.begin();
  awaited.begin();
  showAddress(session);
  showRunning(true);
  showQuestion(prompt);
  setStatus("Connecting…");
  clearTimeout(silenceTimer);
  silenceTimer = setTimeout(() => {
    if (!record || record.columns.last < 0) {
      setStatus("No frame has arrived: start an aggregator with council up or python -m aggregator.");
    }
  }, SILENCE_MS);
  following = new Following(session, {
    onText: begin,
    onFrame: take,
    onAway: () => {
      setStatus("Connection lost; reconnecting…");
      health.showLink("lost, reconnecting");
    },
    onBack: () => setStatus("The council is answering."),
    // Redis lost what the page shows: it is loaded again.
    onSetBack: () => {
      follow(session, { prompt: record?.session.prompt ?? prompt, openedTier: isOwn ? tier || openedTier : "" });
    },
    onEnd: end,
  });
}

// Called with the session and its text so far, at the beginning and after each reconnection.
function begin(session) {
  health.showLink("open");
  if (record) {
    record.session = session;
    record.begin(session);
  } else {
    record = new Record(session);
    replay.begin(session);
    keep.begin(session);
    transport.begin(record.columns, replay.playback);
    pointing.begin(record);
    showQuestion(session.prompt);
    lanes.begin(record);
    branches.begin(session);
    stage.begin(record);
    compare.begin(record);
    readings.begin(session.members.length);
  }
  if (record.columns.last < 0) lanes.drawTexts();
  drawing.schedule();
}

function take(frame) {
  if (record.columns.last < 0) {
    byId("session").hidden = byId("health").hidden = false;
    setStatus("The council is answering.");
    // No other element with the focus may use the keys of a replay.
    if (wasPlayed) byId("live").focus();
    wasPlayed = false;
  }
  if (tier && tier !== frame.tier) showNote(`Memory is full: the session continues in the ${frame.tier} tier.`);
  tier = frame.tier;
  const parted = record.columns.partings.at(-1);
  record.add(frame);
  stage.add(frame);
  awaited.take(frame);
  health.countReceived();
  if (record.columns.partings.at(-1) !== parted) lanes.showParting(frame);
  // The frames of the past come first and are not played.
  if (frame.window_index >= record.session.window_index) drawing.schedule();
}

function end(reason) {
  clearTimeout(silenceTimer);
  // The last texts are drawn before the status, so that a screen reader finds them.
  if (drawing.isScheduled) drawing.now();
  const hadFocus = document.activeElement === byId("stop-button");
  showRunning(false);
  if (hadFocus) byId("prompt").focus();
  if (reason) showError(reason);
  health.showLink("closed");
  // The session could not be loaded: what the page still shows is another one.
  if (!record) byId("session").hidden = byId("health").hidden = true;
  const members = record && record.columns.last >= 0 ? record.columns.frame(record.columns.last).members : [];
  const finished = members.filter((member) => member.state === "finished").length;
  setStatus(members.length ? `Ended: ${finished} of ${members.length} finished.` : "Ended.");
  replay.showStatus();
  branches.read();
  showHealth();
  redraw();
}

// --- drawing ---

function draw(nowMs) {
  if (!record || record.columns.last < 0) return;
  const { window, isLive } = transport;
  const { isCalm } = drawing;
  const frame = record.columns.frame(window);
  const number = Math.floor(window / WINDOWS_PER_NUMBER);
  const withNumbers = isCalm || number !== numbersOf || frame.final || !isLive;
  numbersOf = number;
  health.countDrawn();
  lanes.draw(frame, withNumbers);
  if (withNumbers) {
    readings.draw(frame, record.columns);
    pointing.follow(frame);
    transport.draw(window, runs);
    awaited.draw(record.columns.frame(record.columns.last), runs && !replay.playback);
    replay.showStatus(window);
  }
  if (isLive) announcer.summarise(frame, nowMs, record);
  const isUnfinished = stage.draw(window, !isLive, isCalm);
  const isCompareDue = compare.draw(window, nowMs, frame.final || !isLive);
  if (isUnfinished || isCompareDue || transport.isMoving) drawing.schedule();
}

// Draws at once, with the numbers: the user has changed something.
function redraw() {
  numbersOf = -1;
  drawing.schedule();
}

function jump(byte) {
  drawing.now();
  lanes.reveal(byte);
}

// --- question, health, first session ---

function showQuestion(prompt) {
  setText(byId("question"), prompt);
}

function showHealth() {
  if (record && record.columns.last >= 0) health.show(record.columns.frame(record.columns.last), runs);
}

async function readStatus() {
  const status = await getStatus().catch(() => null);
  if (status) health.showStatus(status);
}

// Follows the session in the address, or else one that is open.
async function followFirst() {
  const named = namedSession();
  const found = named ? [] : await getSessions().catch(() => []);
  const session = named || found.find((each) => each.status === "open")?.session;
  if (session && following === null && !ask.isAsking) follow(session);
}

byId("stop-button").addEventListener("click", stop);
byId("again").addEventListener("click", again);
byId("compare-button").addEventListener("click", () => compare.open(!compare.isOpen));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  stage.repaint();
  drawing.schedule();
});
addEventListener("hashchange", () => {
  const named = namedSession();
  if (named && named !== following?.session) follow(named);
});
new ResizeObserver(() => drawing.schedule()).observe(byId("braid"));
setInterval(() => {
  if (runs && !document.hidden) showHealth();
}, SECOND_MS);
setInterval(() => {
  if (runs && !document.hidden) readStatus();
}, STATUS_MS);

new Sessions(byId("sessions"), (session) => follow(session), () => following?.session);
new Recordings(byId("recordings"), (session) => {
  follow(session);
  wasPlayed = true;
});
readStatus();
followFirst();
