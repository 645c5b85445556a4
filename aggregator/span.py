"""The common span: what members with different tokenizers say about the same bytes.

    x = 4, the frontier            0   4   8
    member 0, words                |The| sky is|         token [3, 10), 6 bytes of it after x
    member 1, byte pairs           |The| s|ky|           token [3, 5), 1 byte after x:  n = 1, the fewest
    member 2, characters           |T|h|e| |s|           token [4, 5), 1 byte after x

Each member's pieces that agree with what it wrote before x, less those bytes, are cut to n bytes. Equal ones add up:
q_m. So members that write the same text say the same, however their tokenizers cut it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from aggregator.proposal import Proposal


class Span(msgspec.Struct, frozen=True, gc=False):
    """q_m: the probability of each text of n bytes (or fewer, where a piece is shorter), all above 0; `rest` is not
    known. Sums to 1 with the rest."""

    probabilities: dict[bytes, float]
    rest: float = 0.0


def span_of(proposal: Proposal, offset: int, span_bytes: int) -> Span:
    """q_m of a member whose token begins `offset` bytes before the frontier, over the next `span_bytes` bytes.

    Pieces that contradict what the member wrote before the frontier are out of the question. Pieces that end at or
    before it agree, but what would follow is not known: they join the rest. The others share 1 - rest. A token that
    begins at the frontier has nothing to agree with: each of its pieces counts, b"" (here is the end) too.
    """
    listed, rest = proposal.probabilities, proposal.rest
    kept: Iterable[bytes] = listed
    if offset:
        written = proposal.own[:offset]
        kept = [piece for piece in listed if piece[:offset] == written and piece != written]
        rest = min(1.0, rest + sum([listed[piece] for piece in _beginnings(written, listed)]))
    end = offset + span_bytes
    q: dict[bytes, float] = {}
    for piece in kept:
        cut = piece[offset:end]
        if cut in q:
            q[cut] += listed[piece]
        elif p := listed[piece]:
            q[cut] = p
    if not q:
        return certain_span(proposal, offset, span_bytes, rest)
    if offset:
        total, left = sum(q.values()), 1.0 - rest
        # In this order: all that is kept may be so small that its inverse is infinite.
        q = {cut: share for cut, p in q.items() if (share := p / total * left)}
    return Span(q, rest)


def _beginnings(written: bytes, listed: Mapping[bytes, float]) -> list[bytes]:
    """The listed pieces that `written` begins with, itself among them."""
    if len(written) < len(listed):
        return [begun for end in range(len(written) + 1) if (begun := written[:end]) in listed]
    return [piece for piece in listed if written.startswith(piece)]


def certain_span(proposal: Proposal, offset: int, span_bytes: int, rest: float = 0.0) -> Span:
    """q_m of a member that counts as certain of the text it wrote, as far as the rest allows."""
    if rest >= 1.0:
        return Span({}, 1.0)
    return Span({proposal.own[offset : offset + span_bytes]: 1.0 - rest}, rest)
