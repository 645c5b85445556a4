"""Frames of a session of `sync: consensus` whose decisions a test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas.frames import Decision, DecisionKind, MemberFrame, TokenFrame
from tests.support.scripted_sessions import FrameWriter


class Said(NamedTuple):
    """A stretch of the council's answer, and how it was decided. `writers` wrote it as one token, to the others it was
    given; by default all that `against` does not name."""

    text: str
    kind: DecisionKind = "unanimous"
    by: int | None = None
    share: float | None = None
    runner_up: str | None = None
    runner_up_share: float | None = None
    against: tuple[int, ...] = ()
    jsd: float | None = None


def write_together(
    writer: FrameWriter,
    said: Sequence[Said],
    *,
    quiet: int = 0,
    final: bool = False,
    states: Sequence[str] = (),
    **fields: Any,
) -> None:
    """One frame for each stretch, with the decision on it, and `quiet` frames after each one."""
    count = len(writer.models)
    states = states or ["answering"] * count
    for number, each in enumerate(said):
        at = len(writer.text.encode())
        writer.text += each.text
        end = len(writer.text.encode())
        decision = Decision(
            at, end, each.kind, each.by, each.share, each.runner_up, each.runner_up_share, each.jsd, each.against
        )
        tokens = tuple(
            TokenFrame(member, "answer", writer.count, at, end, -0.4, "real")
            for member in range(count) if member not in each.against
        )  # fmt: skip
        common = {"mode": "consensus", "compares": "next", **fields}
        is_last = final and number == len(said) - 1
        writer.write(
            1, final=is_last and not quiet, members=_members(writer, states, each.text, end), tokens=tokens,
            agreed=each.text, decisions=(decision,), superseded=2 * len(each.against), **common,
        )  # fmt: skip
        if quiet:
            writer.write(
                quiet, final=is_last, members=_members(writer, states, "", end), agreed="", decisions=(), **common
            )


def _members(writer: FrameWriter, states: Sequence[Any], text: str, end: int) -> tuple[MemberFrame, ...]:
    return tuple(
        MemberFrame(model, state, 0.5, 20.0, 0.5, end, 0, text, "", None, name=f"m{index}")
        for index, (model, state) in enumerate(zip(writer.models, states, strict=True))
    )
