"""The examples of docs/maths.md, its pictures and tables: small streams and lists, measured by the core."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aggregator.core.replay import replayed
from aggregator.numbers.arithmetic import clamp
from aggregator.numbers.energy import EnergyMeter, certainty_of
from aggregator.numbers.measures import AlignedMember, measures_at
from aggregator.numbers.proposal import proposal_of
from aggregator.numbers.toplist import read_top
from schemas.entries import Claim, Token, encode_entry, pack_top
from schemas.frames import Frame, Measures
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS
from schemas.sessions import ENTRY_VERSION, Member, Opening

List = Mapping[str, float]
# A token: when it arrives, in ms since the session's origin; its text; and its list.
Timed = tuple[int, str, List]


def token(text: str, listed: List, member: int = 0, claim: str = "", seq: int = 0, at_ns: int = 0) -> Token:
    """A token with a measured list, or without a list where `listed` is empty."""
    if not listed:
        return Token(member, claim, seq, "answer", text, at_ns, at_ns)
    top = [(piece.encode(), math.log(p)) for piece, p in listed.items()]
    return Token(member, claim, seq, "answer", text, at_ns, at_ns, math.log(listed[text]), "real", b"", pack_top(top))


def aligned(text: str, listed: List, start: int = 3) -> AlignedMember:
    """A member whose aligned token is `text`, at the byte `start` of its answer."""
    proposal = proposal_of(token(text, listed), start)
    return AlignedMember(start, start + len(proposal.own), proposal)


def frames_of(members: Sequence[Sequence[Timed]], end_ms: int = 0) -> list[Frame]:
    """The frames of a session in which each member writes these tokens, at least until `end_ms`."""
    # A whole second is a point of the 60 Hz grid, so the session's origin is its opening.
    origin_ms = 1_000_000
    opening = Opening(
        ENTRY_VERSION, "picture", "", tuple(Member(f"member {i}") for i in range(len(members))), sync="free"
    )
    stream = [(f"{origin_ms}-0", encode_entry(opening))]
    claims = [f"{origin_ms}-{i + 1}" for i in range(len(members))]
    stream += [(claim, encode_entry(Claim(i, origin_ms * NS_PER_MS))) for i, claim in enumerate(claims)]
    written = [
        (at_ms, i, seq, text, listed)
        for i, tokens in enumerate(members)
        for seq, (at_ms, text, listed) in enumerate(tokens)
    ]
    for at_ms, i, seq, text, listed in sorted(written, key=lambda one: one[:3]):
        at_ns = (origin_ms + at_ms) * NS_PER_MS
        stream.append((f"{origin_ms + at_ms}-{i + 9}", encode_entry(token(text, listed, i, claims[i], seq, at_ns))))
    return [closed.frame for closed in replayed(stream, end_ms * FRAME_RATE_HZ // 1000)]


def likely(text: str, p: float, *others: str) -> List:
    """A list with p for the text, and half of the remaining probability for each further one."""
    listed, left = {text: p}, 1.0 - p
    for other in others:
        if other not in listed:
            left /= 2
            listed[other] = left
    return listed


def sentence(words: str, gap_ms: int, p: float, begin_ms: int = 0) -> list[Timed]:
    """Words, one each gap_ms, all with similar lists."""
    pieces = [f" {word}" if i or begin_ms else word for i, word in enumerate(words.split())]
    return [(begin_ms + i * gap_ms, piece, likely(piece, p, " the", " a", " of")) for i, piece in enumerate(pieces)]


# A member that writes fast and with certainty, stalls, and continues slowly and with low certainty.
FAST = sentence("one two six ten all " * 5 + "one", 80, 0.9)
SLOW = sentence("one two six ten all one two six ten", 250, 0.4, begin_ms=4000)
_SURE, _ALIKE, _CUT = {" sky": 0.9, " sea": 0.1}, {" sky": 0.5, " sea": 0.5}, {" sky": 0.4, " sea": 0.25}
# Two members at one frontier; docs/maths.md has a table of their measurements.
EXAMPLES: dict[str, list[AlignedMember]] = {
    "same, certain": [aligned(" sky", _SURE), aligned(" sky", _SURE)],
    "same, uncertain": [aligned(" sky", _ALIKE), aligned(" sea", _ALIKE)],
    "different, certain": [aligned(" sky", {" sky": 1.0}), aligned(" sea", {" sea": 1.0})],
    "short lists": [aligned(" sky", _CUT), aligned(" air", {" air": 0.45, " sea": 0.25})],
    "two tokenizers": [aligned(" sky is", {" sky is": 0.7, " sea is": 0.3}), aligned(" s", {" s": 0.8, " c": 0.2})],
    "one without lists": [aligned(" sky", _SURE), aligned(" sky", {})],
    "position 0": [aligned(" The", {" The": 0.5, " A": 0.3}, 0), aligned("The", {"The": 0.5, "A": 0.3}, 0)],
}
# The members' energies in each example.
EXAMPLE_ENERGIES = (0.4, 0.6)


def measured(name: str) -> Measures:
    """The measurements of one of the EXAMPLES, with equal weights."""
    members = EXAMPLES[name]
    return measures_at(max(one.start for one in members), members, [1.0] * len(members))


def parts_of_energy(tokens: Sequence[Timed]) -> list[tuple[float, float, float, float]]:
    """(time in seconds, velocity, certainty, friction) of each arrival."""
    profile, meter, found = Opening(ENTRY_VERSION, "", "", ()).profile, EnergyMeter(), []
    for at_ms, text, listed in tokens:
        before_ns, at_ns = meter.last_arrival_ns, at_ms * NS_PER_MS
        meter.add_token(at_ns, at_ns, certainty_of(read_top(token(text, listed).top)), profile)
        meter.settle(profile)
        gap_ms = 0.0 if before_ns is None else (at_ns - before_ns) / NS_PER_MS
        velocity = clamp((meter.tokens_per_s(at_ns) - profile.tps_min) / (profile.tps_max - profile.tps_min))
        friction = 1.0 - clamp((gap_ms - profile.stall_ms) / (profile.ceil_ms - profile.stall_ms))
        found.append((at_ms / 1000, velocity, meter.certainty or 0.0, friction))
    return found
