"""A session as a story: which member writes what, and when. The core and the oracle must compute the same frames of
it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.entries import (
    Alive,
    AnyEntry,
    Claim,
    Failed,
    Finished,
    Lane,
    Loading,
    Token,
    Waiting,
    encode_entry,
    pack_top,
)
from schemas.frames import Frame
from schemas.sessions import ENTRY_VERSION, Limits, Member, Opening, Sync
from tests.aggregator.core.test_law import UNLIMITED, assert_law


@dataclass
class Story:
    """A session's token stream while it is written; `now_ms` counts from its opening."""

    members: int
    limits: Limits = UNLIMITED
    sync: Sync = "free"
    # The members whose backends pause.
    pausing: tuple[int, ...] = ()
    # The members for which there is no slot or no memory beside the others.
    queued: tuple[int, ...] = ()
    now_ms: int = 0
    stream: list[tuple[str, bytes]] = field(default_factory=list)
    seqs: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        members = tuple(Member(f"model-{number}", queues=number in self.queued) for number in range(self.members))
        self._write(Opening(ENTRY_VERSION, "s1", "Why?", members, limits=self.limits, sync=self.sync))
        for member in range(self.members):
            self._write(Claim(member, 0, member in self.pausing))

    def _write(self, entry: AnyEntry) -> None:
        self.stream.append((f"{1_000 + self.now_ms}-{len(self.stream)}", encode_entry(entry)))

    def write(
        self, member: int, text: str, piece: bytes = b"", top: Sequence[tuple[bytes, float]] | None = None,
        lane: Lane = "answer",
    ) -> None:  # fmt: skip
        """Writes the member's next token. Without `top` its list has this piece alone, with probability 1."""
        listed = [(piece or text.encode(), 0.0)] if top is None else list(top)
        quality = "real" if listed else "missing"
        arrival_ns, seq = (1_000 + self.now_ms) * 1_000_000, self.seqs.get(member, 0)
        logprob = listed[0][1] if listed else None
        claim, differs = self.claim(member), piece if piece != text.encode() else b""
        self._write(
            Token(member, claim, seq, lane, text, arrival_ns, arrival_ns, logprob, quality, differs, pack_top(listed))
        )
        self.seqs[member] = seq + 1

    def finish(self, member: int) -> None:
        self._write(Finished(member, self.claim(member), 0, self.seqs.get(member, 0)))

    def stop(self, member: int, reason: str = "its server said so") -> None:
        self._write(Failed(member, self.claim(member), 0, reason))

    def wait_for_memory(self, member: int) -> None:
        self._write(Waiting(member, self.claim(member), 0))

    def load(self, member: int) -> None:
        self._write(Loading(member, self.claim(member), 0))

    def be_ready(self, member: int) -> None:
        self._write(Alive(member, self.claim(member), 0))

    def claim(self, member: int) -> str:
        return f"1000-{member + 1}"

    def frames(self, windows: int = 0) -> list[Frame]:
        return assert_law(self.stream, windows)
