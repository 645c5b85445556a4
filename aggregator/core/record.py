"""All that the next frames of a session depend on."""

from __future__ import annotations

import msgspec

from aggregator.core.alignment import Alignment
from aggregator.core.consensus import ConsensusRecord
from aggregator.core.member import MemberRecord
from aggregator.core.release import BufferedTokens
from aggregator.core.stepping import Stepping
from aggregator.numbers.interference import Interference
from aggregator.numbers.parting import Parting
from schemas.frames import Mode
from schemas.sessions import Opening


class SessionRecord(msgspec.Struct, array_like=True):
    """All that the next frames depend on, without the contents of buffered and unaligned tokens. `window` is the next
    one to close."""

    members: list[MemberRecord]
    cut: str
    alignment: Alignment
    window: int = 0
    mode: Mode = "free"
    ended: bool = False
    # How many rungs of the opening's ladder the session fell.
    fallen: int = 0
    interference: Interference = msgspec.field(default_factory=Interference)
    stepping: Stepping = msgspec.field(default_factory=Stepping)
    # How many tokens were accepted, and the buffered tokens of each member.
    tokens: int = 0
    buffered: list[BufferedTokens] = []
    consensus: ConsensusRecord | None = None

    @classmethod
    def begun(cls, opening: Opening, opened: str, origin_ns: int) -> SessionRecord:
        """The record before the first window of a session whose opening is the entry `opened`."""
        count = len(opening.members)
        mode: Mode = "single" if count == 1 else opening.sync
        begin = opening.prefix_bytes
        members = [
            MemberRecord(
                first_token_from_ns=origin_ns, queues=member.queues, written=begin, limit=begin, position=begin,
                base=begin, kept_to=begin,
            )
            for member in opening.members
        ]  # fmt: skip
        stepping = Stepping(list(range(count)) if opening.sync != "free" else [])
        buffered = [BufferedTokens() for _ in members]
        alignment = Alignment(Parting.of(count, begin))
        consensus = None
        if opening.sync == "consensus":
            consensus = ConsensusRecord(opening.prefix.encode(), [None] * count, [None] * count, begin)
        # fmt: off
        return cls(
            members, opened, alignment, mode=mode, stepping=stepping, buffered=buffered, consensus=consensus,
        )
        # fmt: on
