"""A session in a terminal: a lane for each member, the ensemble above them, drawn in place."""

from __future__ import annotations

import textwrap

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from schemas.frames import Frame, MemberFrame

# Okabe and Ito's colours, which most people can tell apart.
_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00")
_BAR = 20
_MOST_NAME_CHARS = 30
_BLOCKS = " ▏▎▍▌▋▊▉█"


class Lanes:
    """What has been said so far, and how it is drawn."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thinking: list[int] = []
        self._frame: Frame | None = None

    def add(self, frame: Frame) -> None:
        """Takes in the next frame."""
        if not self._texts:
            self._texts = [""] * len(frame.members)
            self._thinking = [0] * len(frame.members)
        for index, member in enumerate(frame.members):
            self._texts[index] += member.text
            self._thinking[index] += len(member.thinking)
        self._frame = frame

    def drawn(self, width: int, height: int) -> RenderableType:
        """The lanes for a terminal of this size: the newest lines of each text."""
        frame = self._frame
        if frame is None:
            return Text("waiting for the first frame", style="dim")
        lines = max(1, (height - 3) // len(frame.members) - 2)
        lanes = [self._lane(index, member, width - 4, lines) for index, member in enumerate(frame.members)]
        return Group(self._head(frame), *lanes)

    def _head(self, frame: Frame) -> RenderableType:
        measured = f"{frame.diversity_index:.2f}" if frame.di_source == "logprobs" else "unknown"
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text.assemble("energy ", _bar(frame.energy, "bold"), f" {frame.energy:.2f}"),
            Text(f"diversity {measured}"),
            Text(f"{frame.mode} · {frame.tier} tier · {frame.end_ns / 1e9:.1f} s", style="dim"),
        )
        return Group(head, _between(frame))

    def _lane(self, index: int, member: MemberFrame, width: int, lines: int) -> RenderableType:
        colour = _COLOURS[index % len(_COLOURS)]
        title = Text.assemble(
            (_shortened(member.model), f"bold {colour}"),
            f"  {'remote, ' if member.remote else ''}{member.state} ",
            _bar(member.energy, colour),
            f" {member.energy:.2f}  {member.tokens_per_s:.0f} tokens/s",
        )
        body = Text(_last_lines(self._texts[index], width, lines))
        if not self._texts[index] and self._thinking[index]:
            body = Text(f"thinking: {self._thinking[index]} characters so far", style="dim italic")
        if member.reason and member.state == "dropped":
            body.append(f"\n{member.reason}", style="red")
        return Panel(body, title=title, title_align="left", border_style=colour, height=lines + 2)


def _between(frame: Frame) -> Text:
    """What happens between the members, in words."""
    if frame.agreement is None:
        return Text("nobody to agree with yet", style="dim")
    said = Text(f"agreement {frame.agreement:.2f} · {'resonance' if frame.resonance else frame.interference}")
    if frame.agreement_source == "text":
        said.append(" · by what they wrote alone", style="dim")
    if frame.compares == "next":
        said.append(" · the same text so far", style="dim")
    elif frame.diverged_at_bytes is not None:
        said.append(f" · parted at byte {frame.diverged_at_bytes}", style="dim")
    return said


def _shortened(name: str) -> str:
    """The name where there is room for what follows it: of a long one its beginning and its end."""
    return name if len(name) <= _MOST_NAME_CHARS else f"{name[:16]}…{name[17 - _MOST_NAME_CHARS :]}"


def _bar(value: float, style: str) -> tuple[str, str]:
    eighths = round(value * _BAR * 8)
    full, rest = divmod(eighths, 8)
    bar = "█" * full + (_BLOCKS[rest] if rest else "")
    return bar.ljust(_BAR, "·"), style


def _last_lines(text: str, width: int, lines: int) -> str:
    """The end of the text that fits into so many lines."""
    found: list[str] = []
    for paragraph in text.strip("\n").split("\n")[-lines:]:
        found += textwrap.wrap(paragraph, max(width, 1), replace_whitespace=False) or [""]
    return "\n".join(found[-lines:])
