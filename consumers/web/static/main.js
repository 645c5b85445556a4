// The page: a question, the council's answer to it, and what happened in between.

import { cancelSession, getModels, getSessions, openSession } from "./api.js";
import { Following } from "./follow.js";
import { Lanes, setText } from "./lanes.js";
import { ModelChoice } from "./models.js";
import { Strip } from "./strip.js";

// Numbers that change faster cannot be read.
const WINDOWS_A_NUMBER = 12;
const STILL_STRIP_MS = 1_000;
const LOOK_FOR_MODELS_MS = 4_000;
const SILENCE_MS = 4_000;

const at = (id) => document.getElementById(id);
const lanes = new Lanes(at("lanes"));
const strip = new Strip(at("strip"));
const models = new ModelChoice(at("models"), at("no-models"));
const wantsLessMotion = matchMedia("(prefers-reduced-motion: reduce)");

let following = null;
let isAsking = false;
let isOwn = false;
// The session whose lanes are shown.
let begun = "";
let newest = null;
let tier = "";
// What the frames so far say of the members' texts: frames without two to compare no longer do.
let partedAtBytes = null;
let lastCompares = null;
let numbersOf = -1;
let stripDrawnMs = 0;
let isDrawScheduled = false;
let nextDrawMs = 0;
let targetFps = 60;
let silenceTimer = 0;

// --- asking and stopping ---

async function ask() {
  const prompt = at("prompt").value;
  if (isAsking) return;
  if (models.isEmptied()) {
    showError("No model is chosen: tick at least one.");
    return;
  }
  isAsking = true;
  showError("");
  setStatus("Asking…");
  try {
    const opened = await openSession({ prompt, models: models.chosen(), allow_remote: models.goesOut() });
    // Nobody would see what an earlier question of ours goes on to say; somebody else's session is theirs.
    if (isRunning() && isOwn) cancelSession(following.session).catch(() => {});
    showError(opened.warnings.join(" "));
    follow(opened.session, prompt, opened.tier);
    at("prompt").value = "";
  } catch (error) {
    showError(error.message);
    setStatus("");
  } finally {
    isAsking = false;
    fitPrompt();
  }
}

async function stop() {
  if (!isRunning()) return;
  setStatus("Stopping…");
  try {
    await cancelSession(following.session);
  } catch (error) {
    showError(error.message);
  }
}

function showQuestion(prompt) {
  at("question").hidden = !prompt;
  at("question").textContent = prompt;
}

const isRunning = () => following !== null && !at("stop-button").hidden;

function showRunning(runs) {
  at("stop-button").hidden = !runs;
}

// --- following ---

// A session that was asked for here comes with its prompt; one that was found running tells it with its text so far.
function follow(session, prompt, openedTier = "") {
  following?.leave();
  isOwn = prompt !== "";
  newest = null;
  tier = openedTier;
  partedAtBytes = null;
  lastCompares = null;
  numbersOf = -1;
  showRunning(true);
  showQuestion(prompt);
  setStatus("The council is called…");
  clearTimeout(silenceTimer);
  silenceTimer = setTimeout(() => {
    if (newest === null) setStatus("No frame has come yet: start an aggregator with council up or python -m aggregator.");
  }, SILENCE_MS);
  following = new Following(session, {
    onText: begin,
    onFrame: take,
    onAway: () => setStatus("The connection is lost; trying again…"),
    onBack: () => setStatus("The council answers."),
    onEnd: end,
  });
}

// What the session has said so far; after a break once more.
function begin(session) {
  if (begun !== session.session) {
    begun = session.session;
    showQuestion(session.prompt);
    lanes.show(session.members.map((member) => member.model));
    strip.show(session.members.length);
    // One member has nobody to agree with.
    for (const reading of document.querySelectorAll(".readings .between")) reading.hidden = session.members.length < 2;
  }
  lanes.begin(session.members);
}

function take(frame) {
  if (newest === null) {
    at("session").hidden = false;
    setStatus("The council answers.");
  }
  if (tier && tier !== frame.tier) showError(`Memory ran out: the session goes on in the ${frame.tier} tier.`);
  tier = frame.tier;
  partedAtBytes = frame.diverged_at_bytes ?? partedAtBytes;
  lastCompares = frame.compares ?? lastCompares;
  newest = frame;
  lanes.add(frame);
  strip.add(frame);
  scheduleDraw();
}

function end(reason) {
  // The last words first, then that they were the last: a screen reader, too, must find them there.
  if (isDrawScheduled) draw(performance.now());
  const hadFocus = document.activeElement === at("stop-button");
  showRunning(false);
  if (hadFocus) at("prompt").focus();
  if (reason) showError(reason);
  const states = newest?.members.map((member) => member.state) ?? [];
  const finished = states.filter((state) => state === "finished").length;
  setStatus(states.length ? `Ended: ${finished} of ${states.length} finished.` : "Ended.");
}

// --- drawing: only when there is something new, and then only the newest ---

function scheduleDraw() {
  if (isDrawScheduled) return;
  isDrawScheduled = true;
  requestAnimationFrame(drawWhenDue);
}

// As often as the tier wants it: on the screen's next frame that is due, or a millisecond early.
function drawWhenDue(nowMs) {
  if (nowMs < nextDrawMs - 1) {
    requestAnimationFrame(drawWhenDue);
    return;
  }
  nextDrawMs = Math.max(nextDrawMs + 1_000 / targetFps, nowMs);
  draw(nowMs);
}

function draw(nowMs) {
  isDrawScheduled = false;
  if (newest === null) return;
  const number = Math.floor(newest.window_index / WINDOWS_A_NUMBER);
  const withNumbers = number !== numbersOf || newest.final;
  numbersOf = number;
  lanes.draw(withNumbers);
  if (withNumbers) drawReadings(newest);
  if (!wantsLessMotion.matches || newest.final || nowMs - stripDrawnMs >= STILL_STRIP_MS) {
    stripDrawnMs = nowMs;
    strip.draw();
  }
}

function drawReadings(frame) {
  const isMeasured = frame.di_source === "logprobs";
  setText(at("energy"), frame.energy.toFixed(2));
  showReading(at("diversity"), isMeasured ? frame.diversity_index.toFixed(2) : null);
  showReading(at("agreement"), frame.agreement === null ? null : `${frame.agreement.toFixed(2)} ${shownPattern(frame)}`);
  setText(at("agreement-source"), SOURCES[frame.agreement_source] ?? "");
  showReading(at("compares"), shownPlace(frame));
  showReading(at("lag"), shownMs(frame.sync_lag_ms));
  showReading(at("skew"), shownMs(frame.arrival_skew_ms));
  setText(at("mode"), frame.mode);
  setText(at("window"), frame.window_index.toLocaleString("en").replaceAll(",", "\u202f"));
}

// Where not all members sent probabilities, what they wrote counts instead.
const SOURCES = { mixed: "in part by text", text: "by text" };

function shownMs(ms) {
  return ms === null ? null : `${Math.round(ms)} ms`;
}

function shownPattern(frame) {
  return frame.resonance ? "resonance" : frame.interference;
}

// Before the members part they say what comes next; afterwards each is in a text of its own, and that stays so when
// there are no longer two of them.
function shownPlace(frame) {
  if (frame.compares === "next") return "the same so far";
  if (partedAtBytes !== null) return `parted at byte ${partedAtBytes}`;
  // Text that was let go before it could be compared: nobody knows where they parted.
  if (frame.compares === "place") return "the same place";
  return lastCompares === "next" ? "never parted" : null;
}

function showReading(node, text) {
  node.classList.toggle("unmeasured", text === null);
  setText(node, text ?? "not measured");
}

// --- small things ---

function setStatus(text) {
  setText(at("status"), text);
}

function showError(text) {
  at("error").hidden = !text;
  setText(at("error"), text);
}

// Where `field-sizing` is not known, the box grows by hand.
function fitPrompt() {
  if (CSS.supports("field-sizing", "content")) return;
  const box = at("prompt");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

async function lookForModels() {
  try {
    const served = await getModels();
    targetFps = served.target_fps;
    models.show(served);
  } catch (error) {
    models.miss(error.message);
  }
}

async function followNewest() {
  const sessions = await getSessions().catch(() => []);
  const open = sessions.find((session) => session.status === "open");
  if (open && following === null && !isAsking) follow(open.session, "");
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("ask").requestSubmit();
});
at("prompt").addEventListener("input", fitPrompt);
at("stop-button").addEventListener("click", stop);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  strip.forgetColours();
  scheduleDraw();
});
new ResizeObserver(() => {
  stripDrawnMs = 0;
  scheduleDraw();
}).observe(at("strip"));
setInterval(() => {
  if (!document.hidden) lookForModels();
}, LOOK_FOR_MODELS_MS);

lookForModels();
followNewest();
