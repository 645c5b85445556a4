"""Token streams of councils that write one answer: simulated members, which follow what the core decides.

The core closes the windows while the stream is written. Each member writes the next token of a text that follows from
what is before it, at a pace of its own; its steers reach it with their marks, some windows after the decision.
"""

from __future__ import annotations

import random
from collections import deque

from aggregator.core.session import Session
from schemas.entries import AnyEntry, Claim, Failed, Finished, Steered, Token, encode_entry, pack_top
from schemas.grid import NS_PER_MS, last_ms_of_window
from schemas.keys import entry_ms
from schemas.rules.lanes import leading_space_dropped
from schemas.sessions import ENTRY_VERSION, Limits, Member, Opening, Sampling
from tests.support.streams import Recorded

_TOKENS = (" one", " two", " th", "ree", "", "é", " 日", "\n", ".", "  x")
_LONGEST = 60


class _Drafting:
    """One member: its claim, its text, and what it writes next."""

    def __init__(self, index: int, claim: str, prefix: str, draw: random.Random) -> None:
        self.index, self.claim, self.text, self.branch, self.seq = index, claim, prefix, 0, 0
        # How many tokens without text it wrote last: the next one depends on them.
        self.empty = 0
        self.pace = draw.choice((0.2, 0.6, 1.0, 2.5))
        self.thinks = draw.choice((0, 0, 0, 3))
        self.is_over, self._has_prefix = False, bool(prefix)

    def next_entry(self, t_ms: int) -> AnyEntry:
        """Its next token, or its end: the members choose the same token in three of four places."""
        arrival_ns = t_ms * NS_PER_MS
        if self.thinks:
            self.thinks -= 1
            self.seq += 1
            return Token(self.index, self.claim, self.seq - 1, "thinking", "hm ", arrival_ns, arrival_ns)
        shared = random.Random(f"{self.empty}{self.text}")
        draw = random.Random(f"{self.index} {self.empty}{self.text}") if shared.random() < 0.25 else shared
        if len(self.text.encode()) > _LONGEST or draw.random() < 0.01:
            self.is_over = True
            return Finished(self.index, self.claim, arrival_ns, self.seq, branch=self.branch)
        text = draw.choice(_TOKENS)
        self.text += text
        self.empty = 0 if text else self.empty + 1
        self.seq += 1
        top = pack_top([(text.encode(), -0.5), (b" no", -1.5)])
        return Token(
            self.index, self.claim, self.seq - 1, "answer", text, arrival_ns, arrival_ns, -0.5, "real", b"", top,
            self.branch,
        )  # fmt: skip

    def steer(self, mark: Steered) -> None:
        data = self.text.encode() if self._has_prefix else leading_space_dropped(self.text.encode())
        self.text = data[: mark.start].decode() + mark.text
        self.branch, self.seq, self.empty, self.is_over = mark.branch, 0, 0, False


def drafted(seed: int, prefix: str = "") -> Recorded:
    """A session of two to four members, which ends; the same seed gives the same stream."""
    draw = random.Random(seed)
    count = draw.randint(2, 4)
    opening = Opening(
        ENTRY_VERSION, "s1", "Why?", tuple(Member(f"m{n}") for n in range(count)), sync="consensus", prefix=prefix,
        limits=Limits(detach_ms=400, frontier_waits_ms=300), sampling=Sampling(max_tokens=60, temperature=0.0),
        mixture=4,
    )  # fmt: skip
    stream = [("1000-0", encode_entry(opening))]

    def write(entry: AnyEntry, t_ms: int) -> str:
        last_ms, last = (int(part) for part in stream[-1][0].split("-"))
        stream.append((f"{t_ms}-0" if t_ms > last_ms else f"{last_ms}-{last + 1}", encode_entry(entry)))
        return stream[-1][0]

    members = [_Drafting(n, write(Claim(n, 0), 1000), prefix, draw) for n in range(count)]
    core, read, last_ms, window = Session(opening, stream[0][0]), 1, 1000, 0
    # (the window in which it is committed, the marks)
    commits = deque[tuple[int, tuple[Steered, ...]]]()
    while not core.record.ended and window < 3_000:
        end_ms = last_ms_of_window(core.origin_ns, window)
        while commits and commits[0][0] <= window:
            for mark in commits.popleft()[1]:
                write(mark, last_ms + 1)
                members[mark.member].steer(mark)
        for t_ms in range(last_ms + 1, end_ms + 1):
            for member in members:
                if draw.random() < member.pace / 16 and not member.is_over:
                    write(member.next_entry(t_ms), t_ms)
        if draw.random() < 0.002:
            member = draw.choice(members)
            member.is_over = bool(write(Failed(member.index, member.claim, 0, "it broke"), end_ms))
        entries = [entry for entry in stream[read:] if entry_ms(entry[0]) <= end_ms]
        read += len(entries)
        at = max(window + draw.choice((1, 1, 2, 5)), commits[-1][0] if commits else 0)
        commits.append((at, core.close(entries).steered))
        last_ms, window = end_ms, window + 1
    for _, marks in commits:
        for mark in marks:
            write(mark, last_ms + 1)
    return Recorded(opening, stream, 0)
