"""A session as a summary, gathered from its frames: as an object, and as what is printed at its end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from council.command.answers import AnswerComparison
from recordings.plain import plain, plain_text
from schemas.frames import Frame, every_drop
from schemas.grid import FRAME_RATE_HZ
from schemas.rules.partings import Partings
from schemas.sessions import Sync


class AskSummary:
    """A session as one object, computed from its frames."""

    def __init__(self, session: str, tier: str, sync: Sync = "step") -> None:
        self.session, self._opened_tier, self._sync = session, tier, sync
        self._frames = 0
        self._late = 0
        self._resonant_windows = 0
        self._sync_lag_ms: float | None = None
        self._arrival_skew_ms: float | None = None
        self._parting = AnswerComparison()
        self._partings = Partings()
        self._superseded = 0
        self._agreed = ""
        self._mode = ""
        self._last: Frame | None = None
        self._texts: list[str] = []
        self._tokens: list[int] = []

    def add(self, frame: Frame) -> None:
        if self._last is None:
            self._mode = frame.mode
            self._texts = [""] * len(frame.members)
            self._tokens = [0] * len(frame.members)
        for index, member in enumerate(frame.members):
            self._texts[index] += member.text
        for token in frame.tokens:
            self._tokens[token.member] += 1
        self._frames += 1
        self._late += frame.counts.late
        self._resonant_windows += frame.interference.resonance
        self._sync_lag_ms = _larger(self._sync_lag_ms, frame.alignment.sync_lag_ms)
        self._arrival_skew_ms = _larger(self._arrival_skew_ms, frame.alignment.arrival_skew_ms)
        self._parting.add(frame)
        self._partings.add(frame.consensus.decisions or ())
        self._superseded += frame.counts.superseded
        self._agreed += frame.consensus.agreed or ""
        self._last = frame

    @property
    def has_frames(self) -> bool:
        return self._last is not None

    @property
    def all_dropped(self) -> bool:
        return self._last is not None and all(member.state == "dropped" for member in self._last.members)

    @property
    def none_answered(self) -> bool:
        """True where every member ended, and none with a text."""
        members = self._last.members if self._last else ()
        return bool(members) and all(member.ended for member in members) and not any(map(str.strip, self._texts))

    @property
    def warnings(self) -> list[str]:
        """A sentence for each member that finished in a way that needs attention."""
        members = self._last.members if self._last else ()
        return [f"{member.display_name}: {member.warning}." for member in members if member.warning]

    @property
    def why_all_dropped(self) -> str:
        """A sentence for a session whose members were all dropped."""
        return every_drop(
            [(member.display_name, member.reason or "") for member in self._last.members] if self._last else []
        )

    @property
    def agreed(self) -> str | None:
        """The council's text; None in a session that is not `sync: consensus`."""
        return self._agreed if self._sync == "consensus" else None

    @property
    def length_sentence(self) -> str:
        """The session's id, and how long it took."""
        return f"Session {self.session}: {self._last.end_ns / 1e9 if self._last else 0.0:.1f} s."

    @property
    def consensus_lines(self) -> list[str]:
        """Sentences about a session of `sync: consensus`: its partings, the members that were dropped, and the cheaper
        choice where a member lost nearly all partings."""
        members = self._last.members if self._last else ()
        dropped = [f"{m.display_name} was dropped: {m.reason}." for m in members if m.state == "dropped"]
        advice = self._partings.advice([member.display_name for member in members])
        return [self._partings.sentence, *dropped, *filter(None, [advice])]

    @property
    def parting_sentence(self) -> str:
        """A sentence; empty where the members were not compared."""
        if self._parting.at_bytes is not None:
            return f"The members parted at byte {self._parting.at_bytes}."
        return "The members never parted." if self._parting.never_parted else ""

    def as_object(self) -> dict[str, Any]:
        """session, frames, duration_s (window time), late (entries), sync (of the request), mode (of the first frame),
        largest_sync_lag_ms and largest_arrival_skew_ms (of all frames, or None), tier (of the last frame), fell_from
        (the tier at the opening, if the session fell to a lower one), diverged_at_bytes (where the members parted, from
        the last frame that has it), resonance_ms (window time with resonance), superseded (tokens), members; agreed
        (the council's text) and partings (Partings.as_object), which are None unless the sync is consensus."""
        members = self._last.members if self._last else ()
        tier = self._last.tier if self._last else self._opened_tier
        return {
            "session": self.session,
            "frames": self._frames,
            "duration_s": round(self._last.end_ns / 1e9, 3) if self._last else 0.0,
            "late": self._late,
            "sync": self._sync,
            "mode": self._mode,
            "largest_sync_lag_ms": self._sync_lag_ms,
            "largest_arrival_skew_ms": self._arrival_skew_ms,
            "tier": tier,
            "fell_from": self._opened_tier if tier != self._opened_tier else None,
            "diverged_at_bytes": self._parting.at_bytes,
            "resonance_ms": round(self._resonant_windows * 1000 / FRAME_RATE_HZ),
            "superseded": self._superseded,
            "agreed": self.agreed,
            "partings": None if self.agreed is None else self._partings.as_object(len(members)),
            "members": [
                {
                    "model": member.model,
                    "name": member.display_name,
                    "text": self._texts[index],
                    "tokens": self._tokens[index],
                    "state": member.state,
                    "reason": member.reason,
                    "remote": member.remote,
                }
                for index, member in enumerate(members)
            ],
        }


def _larger(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


def print_end(console: Console, session: AskSummary) -> None:
    """Prints every answer in full, the same one once, and a summary."""
    summary = session.as_object()
    agreed = session.agreed
    for member in summary["members"]:
        reason = f" ({member['reason']})" if member["reason"] else ""
        remote = " (remote)" if member["remote"] else ""
        # A Text is printed as it is: no part of a name is formatted as a number or as markup.
        title = f"{member['name']}{remote}: {member['state']}{reason}, {member['tokens']} tokens"
        console.rule(Text(plain(title)), align="left")
        if agreed is None:
            console.print(Text(plain_text(member["text"].strip())))
    if agreed is not None:
        console.rule("the council", align="left")
        console.print(Text(plain_text(agreed.strip())))
    if summary["fell_from"]:
        console.print(
            f"Memory ran out: the session fell from the {summary['fell_from']} to the {summary['tier']} tier.",
            highlight=False,
        )
    line = f"session {summary['session']}: {summary['duration_s']:.1f} s, {summary['frames']} frames, {summary['mode']}"
    console.rule(Text(line), align="left")
    if agreed is not None:
        console.print(Text("\n".join(map(plain, session.consensus_lines))))
    elif session.parting_sentence:
        console.print(session.parting_sentence, highlight=False)
