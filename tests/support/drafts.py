"""A session in which members write drafts by hand, window by window. The core is loaded again from its checkpoint after
each window: a second core, which was never loaded, must compute the same frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from aggregator.core.checkpoint import dump, load
from aggregator.core.session import Closed, Session
from schemas.control import Steer
from schemas.entries import AnyEntry, Claim, Failed, Finished, Lane, Token, encode_entry, pack_top
from schemas.frames import Frame, encode_frame
from schemas.grid import NS_PER_MS, last_ms_of_window
from schemas.keys import entry_order, id_before
from schemas.sessions import ENTRY_VERSION, Limits, Member, Opening, Sampling

_OPENED = "1000-0"
GREEDY = Sampling(temperature=0.0)


class Drafts:
    """`weights` has one weight for each member; `options` are those of Opening."""

    def __init__(self, weights: Sequence[float], limits: Limits | None = None, **options: Any) -> None:
        members = tuple(Member(f"model-{index}", weight) for index, weight in enumerate(weights))
        given = {"sync": "consensus", "sampling": GREEDY} | options
        self.opening = Opening(ENTRY_VERSION, "s1", "Why?", members, limits=limits or Limits(), **given)
        self.core, self._never_loaded = Session(self.opening, _OPENED), Session(self.opening, _OPENED)
        self.entries: list[tuple[str, bytes]] = []
        self.frames: list[Frame] = []
        self._written: list[tuple[str, bytes]] = []
        self._claims: dict[int, str] = {}
        # False: windows are closed whose commits, with the marks, come later.
        self.is_committed = True
        self._seqs = dict[tuple[int, int], int]()

    def claim(self, *members: int, pauses: bool = False) -> None:
        for member in members:
            self._claims[member] = self.add(Claim(member, 0, pauses))

    def add(self, entry: AnyEntry) -> str:
        """Adds an entry to the window that is open; returns its id."""
        ms = last_ms_of_window(self.core.origin_ns, self.core.record.window)
        entry_id = f"{ms}-{len(self.entries) + len(self._written)}"
        self._written.append((entry_id, encode_entry(entry)))
        return entry_id

    def write(
        self, member: int, *texts: str, p: float | None = 0.6, others: Sequence[tuple[str, float]] = (),
        lane: Lane = "answer", branch: int | None = None,
    ) -> None:  # fmt: skip
        """Tokens of the member, each with the probability `p`, beside the `others` in its list; None: without a
        list."""
        branch = self.progress(member).branch if branch is None else branch
        ns = last_ms_of_window(self.core.origin_ns, self.core.record.window) * NS_PER_MS
        for text in texts:
            seq = self._seqs.get((member, branch), 0)
            self._seqs[member, branch] = seq + 1
            listed = [] if p is None else [(text, p), *others]
            top = pack_top([(piece.encode(), math.log(share)) for piece, share in listed])
            quality = "missing" if p is None else "real"
            logprob = None if p is None else math.log(p)
            self.add(
                Token(member, self._claims[member], seq, lane, text, ns, ns, logprob, quality, top=top, branch=branch)
            )

    def finish(self, member: int, reason: str = "stop", p: float | None = None) -> None:
        """The member's draft ends; `p` is the probability of the end in its list."""
        branch = self.progress(member).branch
        top = pack_top([] if p is None else [(b"", math.log(p))])
        logprob = None if p is None else math.log(p)
        count = self._seqs.get((member, branch), 0)
        self.add(Finished(member, self._claims[member], 0, count, reason, branch, logprob, top))

    def fail(self, member: int) -> None:
        self.add(Failed(member, self._claims[member], 0, "its server said so"))

    def close(self) -> Closed:
        """Closes the window."""
        written, self._written = self._written, []
        closed, other = self.core.close(written), self._never_loaded.close(written)
        assert encode_frame(closed.frame) == encode_frame(other.frame)
        assert closed.steered == other.steered
        assert self.core.progress == self._never_loaded.progress
        self.entries += written
        self.frames.append(closed.frame)
        if self.opening.sync == "consensus":
            # What is agreed is released, in the same window, for those that follow.
            assert max(member.position_bytes for member in closed.frame.members) == len(self.agreed.encode())
        self._load_again()
        if self.is_committed:
            for mark in closed.steered:
                self.add(mark)
        return closed

    def windows(self, count: int) -> None:
        for _ in range(count):
            self.close()

    def _load_again(self) -> None:
        cut = self.core.record.cut
        self.core, need_from = load(self.opening, _OPENED, dump(self.core))
        for entry_id, raw in self.entries:
            if need_from is not None and entry_order(id_before(need_from)) < entry_order(entry_id) <= entry_order(cut):
                self.core.restore(entry_id, raw)

    def progress(self, member: int) -> Any:
        return self.core.progress[member]

    def steer(self, member: int) -> Steer | None:
        """What the member continues in its present branch."""
        found: Steer | None = self.progress(member).steer
        return found

    @property
    def agreed(self) -> str:
        return "".join(frame.consensus.agreed or "" for frame in self.frames)

    @property
    def texts(self) -> list[str]:
        """The released text of each member."""
        return ["".join(frame.members[i].text for frame in self.frames) for i in range(len(self.opening.members))]

    @property
    def partings(self) -> list[Any]:
        """All decisions of all frames but the unanimous ones and those of one member alone."""
        made = [decision for frame in self.frames for decision in frame.consensus.decisions or ()]
        return [decision for decision in made if decision.kind in ("certain", "estimate")]

    @property
    def shown(self) -> int:
        return sum(len(frame.tokens) for frame in self.frames)

    @property
    def superseded(self) -> int:
        return sum(frame.counts.superseded for frame in self.frames)
