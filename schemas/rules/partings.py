"""The partings of a council that writes one answer: joining decisions, counting partings, and the advice from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.frames import Decision

# A parting is a decision of one of these kinds: the drafts differed.
PARTED = ("certain", "estimate")
# With fewer partings, a member may lose most of them by chance: of ten even ones nine or more in 1 of 93 answers.
_LEAST_PARTINGS = 10
_MOST_LOST = 0.8


def joined_decisions(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """The decisions, given in order, with those that touch and did not decide a parting joined: unanimous ones, and
    those of text that one member wrote alone."""
    joined = list[Decision]()
    for decision in decisions:
        last = joined[-1] if joined else None
        if last and decision.kind not in PARTED and (last.kind, last.by, last.end) == _joint(decision):
            joined[-1] = msgspec.structs.replace(last, end=decision.end)
        else:
            joined.append(decision)
    return tuple(joined)


def _joint(decision: Decision) -> tuple[str, int | None, int]:
    return decision.kind, decision.by, decision.at


def times(count: int) -> str:
    """How often, in words."""
    return "once" if count == 1 else f"{count} times"


def estimated_of(count: int, estimates: int) -> str:
    """The words that follow a number of partings: how many of them are estimates. Empty where none is."""
    if not estimates:
        return ""
    return ", estimated" if count == 1 else f", {estimates} of them estimated"


class Partings:
    """The partings of one session so far."""

    def __init__(self) -> None:
        self.count = self.estimates = 0
        # The bytes that the council agreed on: not those of a prefix, which were given to it.
        self._bytes = 0
        # How often the members with these indexes lost: their drafts began otherwise.
        self.lost: dict[int, int] = {}
        self._shares = 0.0
        self._measured = 0

    def add(self, decisions: Sequence[Decision]) -> None:
        """Adds the decisions of the next frame."""
        for decision in decisions:
            self._bytes += decision.end - decision.at
            if decision.kind not in PARTED:
                continue
            self.count += 1
            self.estimates += decision.kind == "estimate"
            for member in decision.against:
                self.lost[member] = self.lost.get(member, 0) + 1
            if decision.share is not None:
                self._shares += decision.share
                self._measured += 1

    @property
    def mean_share(self) -> float | None:
        """The mean share of the texts that won, in [0, 1]; None without a parting."""
        return round(self._shares / self._measured, 9) if self._measured else None

    def as_object(self, members: int) -> dict[str, Any]:
        """count, per_100_bytes (of agreed text, without a given prefix), estimates (how many the lists could not decide
        for certain), mean_share, and lost: how many each member lost."""
        return {
            "count": self.count,
            "per_100_bytes": round(100 * self.count / self._bytes, 3) if self._bytes else None,
            "estimates": self.estimates,
            "mean_share": self.mean_share,
            "lost": [self.lost.get(member, 0) for member in range(members)],
        }

    @property
    def sentence(self) -> str:
        """How contested the text was."""
        agreed = f"The council agreed on {self._bytes} byte{'' if self._bytes == 1 else 's'}"
        if not self.count:
            return f"{agreed}, and the drafts never parted."
        mean = self.mean_share
        share = "" if mean is None else f"; the texts that won had a share of {mean:.2f} on average"
        rate = 100 * self.count / max(self._bytes, 1)
        unsure = estimated_of(self.count, self.estimates)
        return f"{agreed}; the drafts parted {times(self.count)} ({rate:.1f} in 100 bytes{unsure}){share}."

    def advice(self, names: Sequence[str]) -> str:
        """A sentence for the user where a member lost nearly all partings, with the cheaper choice; else empty. `names`
        are the members' display names."""
        if self.count < _LEAST_PARTINGS:
            return ""
        losers = [m for m, _ in enumerate(names) if self.lost.get(m, 0) > _MOST_LOST * self.count]
        # Where six members always write six texts, each of them loses five of six.
        if not losers or len(losers) == len(names):
            return ""
        found = " and ".join(f"{names[m]} lost {self.lost[m]} of {self.count} partings" for m in losers)
        others = [name for m, name in enumerate(names) if m not in losers]
        if len(others) == 1:
            return f"{found}: the answer is nearly that of {others[0]}, which costs less alone."
        left_out = "it" if len(losers) == 1 else "them"
        return f"{found}: leave {left_out} out, the answer is nearly the same and costs less."
