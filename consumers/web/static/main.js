// The page: a question, the council's answer to it, and what happened in between.
//
//   socket -> Following -> Record (what was received) -> at the playhead's window, on the screen's next frame:
//                                                         stage, lanes, readings, evidence
//
// One loop draws everything, only when there is something new, and then only the newest.

import { namedSession, showAddress } from "./council/address.js";
import { cancelMember, cancelSession, getSessions, getStatus } from "./council/api.js";
import { Following } from "./council/follow.js";
import { at, setText } from "./elements.js";
import { Lanes } from "./lanes/lanes.js";
import { Announcer } from "./panels/announcer.js";
import { Ask } from "./panels/ask.js";
import { Awaited } from "./panels/awaited.js";
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
import { Record } from "./record/record.js";
import { Stage } from "./stage/stage.js";

// Numbers that change faster cannot be read.
const WINDOWS_A_NUMBER = 12;
// For those who want less motion: so often a second, at most.
const CALM_FPS = 4;
const SILENCE_MS = 4_000;
const STATUS_MS = 5_000;
const SECOND_MS = 1_000;

const wantsLessMotion = matchMedia("(prefers-reduced-motion: reduce)");
const readings = new Readings();
const announcer = new Announcer(at("summary"), at("pointed"));
const health = new Health(at("health"));
const awaited = new Awaited(at("awaited"), (index) => stopMember(following.session, index));
const compare = new Compare(at("compare"));
const pointing = new Pointing(announcer, redraw, () => stage.leave());
const keep = new Keep();
const transport = new Transport(redraw, jump);
const replay = new Replay(transport, redraw);
const lanes = new Lanes(at("lanes"), {
  onStop: stopMember,
  onToken: (...token) => pointing.atToken(...token),
  onLeave: () => pointing.leave(),
  onUnknown: (index, range) => pointing.learn(index, range, (known) => lanes.refresh(index, known)),
});
const stage = new Stage(
  {
    braid: at("braid"), energy: at("energy-plot"), diversity: at("diversity-plot"),
    disagreement: at("disagreement-plot"), lag: at("lag-plot"),
  },
  {
    onPoint: (...window) => pointing.atWindow(...window),
    onLeave: () => pointing.leave(),
    onPick: (window) => transport.hold(window),
  },
);
const ask = new Ask({
  onAsking: () => {
    showError("");
    statusBefore = statusText();
    setStatus("Asking…");
  },
  onOpened: opened,
  onRefused: (sentence) => {
    showError(sentence);
    if (statusText() === "Asking…") setStatus(statusBefore);
  },
});

let following = null;
let record = null;
// Whether the session was asked for here.
let isOwn = false;
let runs = false;
// Whether a recording was played here, of which no frame has come yet.
let wasPlayed = false;
let tier = "";
let numbersOf = -1;
// The screen's frame that is asked for; 0 for none.
let askedFrame = 0;
let nextDrawMs = 0;
let silenceTimer = 0;
let statusBefore = "";

// --- asking and stopping ---

function opened(answer, request) {
  // Nobody would see what an earlier question of ours goes on to say; somebody else's session is theirs.
  if (isRunning() && isOwn) cancelSession(following.session).catch(() => {});
  follow(answer.session, { prompt: request.prompt ?? "", openedTier: answer.tier });
  showNote(answer.warnings.join(" "));
}

async function stop() {
  if (!isRunning()) return;
  setStatus("Stopping…");
  await cancelSession(following.session).catch((error) => {
    showError(error.message);
    setStatus("The council answers.");
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
  at("stop-button").hidden = !runs;
}

// --- following ---

// A session that was asked for here comes with its prompt; of one that was found, GET tells it with its text so far.
function follow(session, { prompt = "", openedTier = "" } = {}) {
  following?.leave();
  isOwn = openedTier !== "";
  [record, tier, numbersOf] = [null, openedTier, -1];
  showError("");
  for (const part of [pointing, transport, replay, keep]) part.begin(null);
  announcer.begin();
  awaited.begin();
  showAddress(session);
  showRunning(true);
  showQuestion(prompt);
  setStatus("The council is called…");
  clearTimeout(silenceTimer);
  silenceTimer = setTimeout(() => {
    if (!record || record.columns.last < 0) {
      setStatus("No frame has come yet: start an aggregator with council up or python -m aggregator.");
    }
  }, SILENCE_MS);
  following = new Following(session, {
    onText: begin,
    onFrame: take,
    onAway: () => {
      setStatus("The connection is lost; trying again…");
      health.showLink("lost, trying again");
    },
    onBack: () => setStatus("The council answers."),
    onEnd: end,
  });
}

// What the session has said so far; after a break once more.
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
    stage.begin(record);
    compare.begin(record);
    readings.begin(session.members.length);
  }
  if (record.columns.last < 0) lanes.drawTexts();
  scheduleDraw();
}

function take(frame) {
  if (record.columns.last < 0) {
    at("session").hidden = at("health").hidden = false;
    setStatus("The council answers.");
    // Where the keys of a replay belong to nothing else.
    if (wasPlayed) at("live").focus();
    wasPlayed = false;
  }
  if (tier && tier !== frame.tier) showNote(`Memory ran out: the session goes on in the ${frame.tier} tier.`);
  tier = frame.tier;
  const parted = record.columns.partings.at(-1);
  record.add(frame);
  stage.add(frame);
  awaited.take(frame);
  health.countReceived();
  if (record.columns.partings.at(-1) !== parted) lanes.showParting(frame);
  // The past that comes first is not played: it is there to be looked back at.
  if (frame.window_index >= record.session.window_index) scheduleDraw();
}

function end(reason) {
  clearTimeout(silenceTimer);
  // The last words first, then that they were the last: a screen reader, too, must find them there.
  if (askedFrame) draw(performance.now());
  const hadFocus = document.activeElement === at("stop-button");
  showRunning(false);
  if (hadFocus) at("prompt").focus();
  if (reason) showError(reason);
  health.showLink("closed");
  // Gone before anything was known of it: what is still shown is another's.
  if (!record) at("session").hidden = at("health").hidden = true;
  const members = record && record.columns.last >= 0 ? record.columns.frame(record.columns.last).members : [];
  const finished = members.filter((member) => member.state === "finished").length;
  setStatus(members.length ? `Ended: ${finished} of ${members.length} finished.` : "Ended.");
  replay.tell();
  showHealth();
  redraw();
}

// --- drawing ---

function scheduleDraw() {
  if (!askedFrame) askedFrame = requestAnimationFrame(drawWhenDue);
}

// As often as the tier wants it: on the screen's next frame that is due, or a millisecond early.
function drawWhenDue(nowMs) {
  if (nowMs < nextDrawMs - 1) {
    askedFrame = requestAnimationFrame(drawWhenDue);
    return;
  }
  const betweenMs = SECOND_MS / (wantsLessMotion.matches ? CALM_FPS : ask.targetFps);
  // In step with what was due, unless that is long ago: then the next is due from now on.
  nextDrawMs = (nowMs - nextDrawMs < betweenMs ? nextDrawMs : nowMs) + betweenMs;
  draw(nowMs);
}

function draw(nowMs) {
  cancelAnimationFrame(askedFrame);
  askedFrame = 0;
  if (!record || record.columns.last < 0) return;
  const { window, isLive } = transport;
  const isCalm = wantsLessMotion.matches;
  const frame = record.columns.frame(window);
  const number = Math.floor(window / WINDOWS_A_NUMBER);
  const withNumbers = isCalm || number !== numbersOf || frame.final || !isLive;
  numbersOf = number;
  health.countDrawn();
  lanes.draw(frame, withNumbers);
  if (withNumbers) {
    readings.draw(frame, record.columns);
    pointing.follow(frame);
    transport.draw(window, runs);
    awaited.draw(record.columns.frame(record.columns.last), runs && !replay.playback);
    replay.tell(window);
  }
  if (isLive) announcer.summarise(frame, nowMs);
  const isUnfinished = stage.draw(window, !isLive, isCalm);
  const isCompareDue = compare.draw(window, nowMs, frame.final || !isLive);
  if (isUnfinished || isCompareDue || transport.isMoving) scheduleDraw();
}

// Numbers, too, at once: a person has done something.
function redraw() {
  numbersOf = -1;
  scheduleDraw();
}

function jump(byte) {
  draw(performance.now());
  lanes.reveal(byte);
}

// --- small things ---

function showQuestion(prompt) {
  setText(at("question"), prompt);
}

function showHealth() {
  if (record && record.columns.last >= 0) health.show(record.columns.frame(record.columns.last), runs);
}

async function lookAtStatus() {
  const status = await getStatus().catch(() => null);
  if (status) health.showStatus(status);
}

// The session that the address names, or the one that runs.
async function followFirst() {
  const named = namedSession();
  const found = named ? [] : await getSessions().catch(() => []);
  const session = named || found.find((each) => each.status === "open")?.session;
  if (session && following === null && !ask.isAsking) follow(session);
}

at("stop-button").addEventListener("click", stop);
at("again").addEventListener("click", again);
at("compare-button").addEventListener("click", () => compare.open(!compare.isOpen));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  stage.repaint();
  scheduleDraw();
});
addEventListener("hashchange", () => {
  const named = namedSession();
  if (named && named !== following?.session) follow(named);
});
wantsLessMotion.addEventListener("change", scheduleDraw);
// A screen may be finer than the one before.
addEventListener("resize", scheduleDraw);
new ResizeObserver(scheduleDraw).observe(at("braid"));
setInterval(() => {
  if (runs && !document.hidden) showHealth();
}, SECOND_MS);
setInterval(() => {
  if (runs && !document.hidden) lookAtStatus();
}, STATUS_MS);

new Sessions(at("sessions"), (session) => follow(session), () => following?.session);
new Recordings(at("recordings"), (session) => {
  follow(session);
  wasPlayed = true;
});
lookAtStatus();
followFirst();
