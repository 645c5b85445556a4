"""A session in a terminal: a lane for each member, the ensemble above them, drawn in place."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from council.command.answers import AnswerComparison
from council.command.awaited import Awaited
from recordings.plain import plain, plain_text
from schemas.frames import Frame, MemberFrame

# Okabe and Ito's colours, which most people can distinguish.
_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00")
# A narrow terminal has shorter bars. With six characters a half and a third still differ.
_MOST_BAR, _LEAST_BAR = 20, 6
_MOST_NAME_CHARS, _LEAST_NAME_CHARS = 30, 8
_LONGEST_STATE = "answering"
# The border and the spaces around a title.
_TITLE_FRAME = 6
_SOURCES = {"mixed": "in part by text", "text": "by text"}
# The meaning of the states of step mode.
_MEANINGS = {"held": "pauses for the others", "detached": "no longer waited for"}
# States and counts are updated five times a second: faster changes cannot be read.
_WINDOWS_PER_UPDATE = 12
_BLOCKS = " ▏▎▍▌▋▊▉█"


class _TitleRoom(NamedTuple):
    """The lengths of the parts of all lanes' titles: bars of equal length can be compared. Without a unit, the speed is
    left out."""

    name_chars: int
    bar_chars: int
    unit: str


class Lanes:
    """The answers so far, and their drawing."""

    def __init__(self, awaited: Awaited | None = None, hint: str = "") -> None:
        """`hint` is how the user continues without the `awaited` members; empty where that is not possible."""
        self._awaited, self._hint = awaited, hint
        self._texts: list[str] = []
        self._thinking: list[int] = []
        self._frame: Frame | None = None
        # The members at the last update of the shown states.
        self._members_shown: tuple[MemberFrame, ...] = ()
        self._parting = AnswerComparison()

    def add(self, frame: Frame) -> None:
        """Adds the next frame."""
        if not self._texts:
            self._texts = [""] * len(frame.members)
            self._thinking = [0] * len(frame.members)
        for index, member in enumerate(frame.members):
            self._texts[index] += member.text
            self._thinking[index] += len(member.thinking)
        self._parting.add(frame)
        self._frame = frame
        if not self._members_shown or frame.final or frame.window_index % _WINDOWS_PER_UPDATE == 0:
            self._members_shown = frame.members

    def drawn(self, width: int, height: int) -> RenderableType:
        """The lanes for a terminal of this size: the newest lines of each text."""
        frame = self._frame
        if frame is None:
            return Text("waiting for the first frame", style="dim")
        lines = max(1, (height - 3) // len(frame.members) - 2)
        room = _title_room(frame.members, width)
        lanes = [self._lane(index, member, room, width - 4, lines) for index, member in enumerate(frame.members)]
        return Group(_head(frame, width), *self._between(frame, width), *lanes)

    def _between(self, frame: Frame, width: int) -> list[Text]:
        """How the members compare, in words; nothing for a session of one member."""
        if len(frame.members) < 2:
            return []
        if self._awaited and self._awaited.sentence:
            hint = self._hint if self._awaited.can_go_on else ""
            parts = [f"{plain(self._awaited.sentence)}, {self._awaited.seconds} s", *filter(None, [hint])]
            return [Text(" · ".join(_fitting(parts, width, " · ")), no_wrap=True, overflow="ellipsis")]
        measures, alignment = frame.measures, frame.alignment
        if measures.agreement is None:
            parts = [self._why_none(frame)]
        else:
            kind = "resonance" if frame.interference.resonance else frame.interference.kind
            parts = [f"agreement {measures.agreement:.2f} · {kind}"]
        if alignment.compares == "next":
            parts.append("the same text so far")
        elif self._parting.at_bytes is not None:
            parts.append(f"parted at byte {self._parting.at_bytes}")
        elif self._parting.never_parted:
            parts.append("never parted")
        if measures.agreement_source in _SOURCES:
            parts.append(_SOURCES[measures.agreement_source])
        if alignment.sync_lag_ms is not None and alignment.arrival_skew_ms is not None:
            parts.append(f"shown {alignment.sync_lag_ms:.0f} ms, written {alignment.arrival_skew_ms:.0f} ms apart")
        first, *others = _fitting(parts, width, " · ")
        line = Text(first, style="dim" if measures.agreement is None else "", no_wrap=True, overflow="ellipsis")
        return [line.append("".join(f" · {other}" for other in others), style="dim")]

    def _why_none(self, frame: Frame) -> str:
        """Why the frame has no agreement."""
        running = [member for member in frame.members if not member.ended]
        if len(running) == 1:
            return "one member is left"
        if not running:
            has_dropped = any(member.state == "dropped" for member in frame.members)
            return "all have ended" if has_dropped else "all have finished"
        return "agreement not measured" if self._parting.has_agreed else "no agreement yet"

    def _lane(self, index: int, member: MemberFrame, room: _TitleRoom, width: int, lines: int) -> RenderableType:
        colour, shown = _COLOURS[index % len(_COLOURS)], self._members_shown[index]
        title = Text.assemble(
            (_shortened(plain(member.display_name), room.name_chars), f"bold {colour}"),
            f"  {'remote, ' if member.remote else ''}{shown.state} ",
            _bar(member.energy, colour, room.bar_chars),
            f" {member.energy:.2f}",
            f"  {member.tokens_per_s:.0f} {room.unit}" if room.unit else "",
        )
        body = Text(plain_text(_last_lines(self._texts[index], width, lines)))
        if not self._texts[index] and self._thinking[index]:
            body = Text(f"thinking: {self._thinking[index]} characters so far", style="dim italic")
        if member.reason and (member.state == "dropped" or member.warning):
            body.append(f"\n{plain(member.reason)}", style="red")
        return Panel(
            body, title=title, title_align="left", subtitle=_waiting(shown), subtitle_align="right",
            border_style=colour, height=lines + 2,
        )  # fmt: skip


def _waiting(member: MemberFrame) -> Text | None:
    """How the member and the others wait for each other; None where they do not wait."""
    parts = [_MEANINGS[member.state]] if member.state in _MEANINGS else []
    if member.buffered_tokens:
        parts.append("1 token waits" if member.buffered_tokens == 1 else f"{member.buffered_tokens} tokens wait")
    return Text(" · ".join(parts), style="dim") if parts else None


def _head(frame: Frame, width: int) -> Text:
    """The ensemble in one line. Where it does not fit, the tier is left out first, then the time, then the mode."""
    is_measured = frame.measures.di_source == "logprobs"
    measured = f"diversity {frame.measures.diversity_index:.2f}" if is_measured else "diversity unknown"
    numbers = len("energy  0.00  diversity unknown")
    bar = _bar(frame.energy, "bold", max(_LEAST_BAR, min(_MOST_BAR, width - numbers)))
    head = Text.assemble("energy ", bar, f" {frame.energy:.2f}  ", measured, no_wrap=True, overflow="ellipsis")
    time = f"{frame.end_ns / 1e9:.1f} s"
    for rest in ([frame.mode, f"{frame.tier} tier", time], [frame.mode, time], [frame.mode]):
        shown = f"  {' · '.join(rest)}"
        if head.cell_len + len(shown) <= width:
            return head.append(shown, style="dim")
    return head


def _title_room(members: Sequence[MemberFrame], width: int) -> _TitleRoom:
    """How the titles of all lanes use the width, independent of the present states and numbers."""
    names = min(_MOST_NAME_CHARS, max(len(member.display_name) for member in members))
    remote = len("remote, ") if any(member.remote for member in members) else 0
    room = width - _TITLE_FRAME - remote - len(f"  {_LONGEST_STATE}  0.00")
    for unit in ("tokens/s", "tok/s"):
        if names + _MOST_BAR + len(f"  0000 {unit}") <= room:
            return _TitleRoom(names, _MOST_BAR, unit)
    unit = "tok/s" if room >= _LEAST_NAME_CHARS + _LEAST_BAR + len("  0000 tok/s") else ""
    room -= len(f"  0000 {unit}") if unit else 0
    bar = max(_LEAST_BAR, min(_MOST_BAR, room - names))
    return _TitleRoom(max(_LEAST_NAME_CHARS, min(names, room - bar)), bar, unit)


def _fitting(parts: Sequence[str], width: int, joint: str) -> list[str]:
    """The first part, and as many of the next parts as fit the width."""
    count = 1
    while count < len(parts) and len(joint.join(parts[: count + 1])) <= width:
        count += 1
    return list(parts[:count])


def _shortened(name: str, most: int) -> str:
    """The name in at most `most` characters: of a long one its beginning and its end."""
    if len(name) <= most:
        return name
    head = most // 2
    return f"{name[:head]}…{name[head + 1 - most :]}"


def _bar(value: float, style: str, chars: int) -> tuple[str, str]:
    eighths = round(value * chars * 8)
    full, rest = divmod(eighths, 8)
    bar = "█" * full + (_BLOCKS[rest] if rest else "")
    return bar.ljust(chars, "·"), style


def _last_lines(text: str, width: int, lines: int) -> str:
    """The end of the text, as much as fits into this number of lines."""
    found: list[str] = []
    for paragraph in text.strip("\n").split("\n")[-lines:]:
        found += textwrap.wrap(paragraph, max(width, 1), replace_whitespace=False) or [""]
    return "\n".join(found[-lines:])
