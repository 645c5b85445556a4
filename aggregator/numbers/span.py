"""The common span: the proposals of members with different tokenizers, as probabilities of the same bytes.

    x = 4, the frontier            0   4   8
    member 0, words                |The| sky is|         token [3, 10), 6 bytes of it after x
    member 1, byte pairs           |The| s|ky|           token [3, 5), 1 byte after x:  n = 1, the fewest
    member 2, characters           |T|h|e| |s|           token [4, 5), 1 byte after x

Each member's pieces that agree with what it wrote before x, without those bytes, are cut to n bytes. Equal ones add up:
q_m. So members that write the same text have the same q_m, however their tokenizers cut it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from aggregator.numbers.arithmetic import plain_sum
from aggregator.numbers.proposal import Proposal


class Span(msgspec.Struct, frozen=True, gc=False):
    """q_m: the probability of each text of n bytes (or fewer, where a piece is shorter), all above 0. They sum to 1
    with `rest`, the probability of unknown texts."""

    probabilities: dict[bytes, float]
    rest: float = 0.0


def span_of(proposal: Proposal, offset: int, span_bytes: int) -> Span:
    """q_m of a member whose token begins `offset` bytes before the frontier, over the next `span_bytes` bytes.

    Pieces that contradict what the member wrote before the frontier are left out. Pieces that end at or before it
    agree, but what would follow is not known: they are added to the rest. The others share 1 - rest. For a token that
    begins at the frontier each of its pieces counts, also b"" (the answer ends here).
    """
    if offset:
        return _span_within(proposal, offset, offset + span_bytes)
    q: dict[bytes, float] = {}
    for piece, p in proposal.probabilities.items():
        cut = piece[:span_bytes]
        if cut in q:
            q[cut] += p
        elif p:
            q[cut] = p
    return Span(q, proposal.rest) if q else certain_span(proposal, 0, span_bytes, proposal.rest)


def _span_within(proposal: Proposal, offset: int, end: int) -> Span:
    """q_m from the byte `offset` of the token to its byte `end`, given what the member wrote before."""
    listed, written = proposal.probabilities, proposal.own[:offset]
    rest = proposal.rest
    for begun in _beginnings(written, listed):
        rest += listed[begun]
    rest = min(1.0, rest)
    kept = [piece for piece in listed if len(piece) > offset and piece[:offset] == written]
    if len(kept) == 1 and listed[kept[0]] and rest < 1.0:
        # The most frequent case: only the sampled piece is left.
        return Span({kept[0][offset:end]: 1.0 - rest}, rest)
    total, left = plain_sum([listed[piece] for piece in kept]), 1.0 - rest
    q: dict[bytes, float] = {}
    for piece in kept:
        # Divided first: the total may be so small that its inverse is infinite.
        if share := listed[piece] / total * left if total else 0.0:
            cut = piece[offset:end]
            q[cut] = q.get(cut, 0.0) + share
    return Span(q, rest) if q else certain_span(proposal, offset, end - offset, rest)


def _beginnings(written: bytes, listed: Mapping[bytes, float]) -> list[bytes]:
    """The listed pieces that `written` begins with, itself among them."""
    if len(written) < len(listed):
        return [begun for end in range(len(written) + 1) if (begun := written[:end]) in listed]
    return [piece for piece in listed if written.startswith(piece)]


def certain_span(proposal: Proposal, offset: int, span_bytes: int, rest: float = 0.0) -> Span:
    """q_m of a member that counts as certain of the text it wrote, up to the rest."""
    if rest >= 1.0:
        return Span({}, 1.0)
    return Span({proposal.own[offset : offset + span_bytes]: 1.0 - rest}, rest)
