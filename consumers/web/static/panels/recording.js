// One recording in the list, with its facts and its buttons.

import { fileOfRecording } from "../council/api.js";
import { button, element, shownBytes, shownTime } from "../elements.js";
import { sparkline } from "./sparkline.js";

// handlers: onPlay(), onChoose(isChosen), onStar(isStarred), onDelete().
export function recordingItem(recording, isChosen, handlers) {
  const title = titleOf(recording);
  const item = element("li", "recording");
  item.append(recording.problem ? unreadable(recording) : readable(recording, title, handlers));
  item.append(actions(recording, title, isChosen, handlers));
  return item;
}

// The title: the beginning of the prompt, or else the file's name.
export const titleOf = ({ prompt_start: prompt, name }) => prompt || name;

// The facts of a recording, as texts.
export function factsOf({ opened_ms: openedMs, duration_s: duration, members, mean_agreement: mean, size_bytes: bytes, text, reason }) {
  return [
    shownTime(openedMs),
    shownDuration(duration),
    members.length > 1 ? `${members.length} members: ${members.join(", ")}` : members.join(""),
    mean === null ? "" : `agreement ${mean.toFixed(2)}`,
    shownBytes(bytes),
    text ? "" : "without text",
    reason ?? "",
  ].filter(Boolean);
}

export function shownDuration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const [minutes, rest] = [Math.floor(seconds / 60), Math.floor(seconds % 60)];
  return minutes < 60 ? `${minutes} min ${rest} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function readable(recording, title, { onPlay }) {
  const play = button("", onPlay, "session-link");
  const sign = element("span", "play-sign", "▶");
  sign.setAttribute("aria-hidden", "true");
  play.append(
    element("span", "prompt-start", sign, element("span", "visually-hidden", "Play "), title),
    element("span", "quiet", factsOf(recording).join(" · ")),
  );
  const row = element("div", "recording-head", play);
  row.append(sparkline(recording.agreement, recording.mean_agreement));
  return row;
}

function unreadable({ name, problem, size_bytes: bytes, modified_ms: modifiedMs }) {
  const facts = `${shownTime(modifiedMs)} · ${shownBytes(bytes)}`;
  return element("div", "recording-head unreadable", element("p", "prompt-start", name), element("p", "quiet", facts), element("p", "notice", problem));
}

function actions(recording, title, isChosen, { onChoose, onStar, onDelete }) {
  const row = element("div", "recording-actions");
  if (!recording.problem) {
    const box = element("input");
    box.type = "checkbox";
    box.checked = isChosen;
    box.addEventListener("change", () => onChoose(box.checked));
    const label = element("label", "quiet", box, "Compare", element("span", "visually-hidden", `: ${title}`));
    row.append(label);
  }
  const star = button(recording.starred ? "★ Starred" : "☆ Star", () => onStar(star.getAttribute("aria-pressed") !== "true"), "small");
  star.setAttribute("aria-pressed", String(recording.starred));
  star.setAttribute("aria-label", `Star: ${title}`);
  star.title = "A starred recording is never deleted to make room";
  const load = element("a", "small", "Download");
  load.href = fileOfRecording(recording.name);
  load.download = recording.name;
  load.setAttribute("aria-label", `Download: ${title}`);
  const remove = button("Delete", onDelete, "small");
  remove.setAttribute("aria-label", `Delete: ${title}`);
  row.append(star, load, remove);
  return row;
}
