"""What a member proposes at its aligned token: the possible pieces there, with their probabilities.

    token      text " sky", list [" sky" -0.7, " sea" -1.6, " air" -3.0]
    p_m        {" sky": 0.50, " sea": 0.20, " air": 0.05}     the list, and the sampled token where the list lacks it
    r_m        0.25    what the list left out: never renormalised away
    t_m        0.05    no token that the list left out is more probable

A piece is a byte string. The bytes in the answer can differ from those in the server's list:

 1. Of a character that is split over tokens only the last token is shown, with all of the character's bytes. The list
    is about the bytes that follow the earlier ones: these are put before each of its pieces, and its probabilities are
    conditional on them.
 2. A stand-in (U+FFFD for bytes that are not text) is not in the answer. The sampled token counts as the text that it
    wrote.
 3. At position 0 leading white space is dropped.
 4. Where more than the beginning of a character of the token's text is before its piece, the list is about a later
    position: nothing is measured here.

Where several tokens map to one piece, the piece may have more than its listed probability, out of what the list left
out: such a piece is `loose`.
"""

from __future__ import annotations

import math

import msgspec

from aggregator.numbers.arithmetic import plain_sum
from aggregator.numbers.toplist import TopList, added_up, read_top
from schemas.entries import Finished, Quality, Token, unpack_top
from schemas.rules.lanes import lane_bytes, leading_space_dropped

_STAND_IN = "\ufffd".encode()
# Three bytes of a character that is split, and a space before it.
_MOST_HIDDEN_BYTES = 4


class Proposal(msgspec.Struct, frozen=True, gc=False):
    """p_m, r_m and t_m of one token, with the text `own` that it wrote.

    probabilities sum to at most 1; `likeliest` is the largest of them, that of the piece `favourite`, and `rest` what
    they lack of 1. `unlisted` bounds the probability of any one piece that the list left out, in [0, rest]. Any listed
    piece may have the rest as well where `all_loose`, else only those of many tokens: `loose_pieces` are its own of
    these. Without logprobs (not `has_logprobs`) nothing is known: the rest is 1.
    """

    own: bytes
    probabilities: dict[bytes, float] = {}
    rest: float = 1.0
    unlisted: float = 1.0
    all_loose: bool = True
    loose_pieces: tuple[bytes, ...] = ()
    has_logprobs: bool = False
    likeliest: float = 0.0
    favourite: bytes = b""


def has_many_tokens(piece: bytes) -> bool:
    """True where several tokens map to the piece at any position: all tokens without bytes of their own are one piece,
    and so are those for which a server has no text."""
    return not piece or _STAND_IN in piece


def proposal_of(token: Token, start: int, top: TopList | None = None) -> Proposal:
    """What the token's member proposed at `start`, the byte of its answer at which the token begins.

    `top` is the token's list, where the caller has read it.
    """
    text, own = token.text.encode(), lane_bytes(token, start)
    if token.quality != "real":
        return Proposal(own)
    top = read_top(token.top) if top is None else top
    listed = top.probabilities
    p_sampled = None if token.logprob is None or math.isnan(token.logprob) else _probability(token.logprob)
    if not listed and p_sampled is None:
        return Proposal(own)
    sampled = token.piece or text
    if token.piece and _is_of_a_later_position(sampled, text):
        return Proposal(own)
    if token.piece or not start:
        listed, sampled = _placed(listed, sampled, text, p_sampled, start)
    # A probability of 0 is below a server's precision, and does not bound what the list left out.
    least = min(top.probabilities.values(), default=0.0) or min(filter(None, top.probabilities.values()), default=0.0)
    all_loose = not start or not least or top.has_doubles
    if p_sampled is not None and sampled not in listed:
        listed = {**listed, sampled: p_sampled}
    total = top.total if listed is top.probabilities else plain_sum(listed.values())
    if total > 1.0:
        listed = {piece: p / total for piece, p in listed.items()}
    rest = max(0.0, 1.0 - total)
    unlisted = rest if all_loose else min(rest, least)
    loose_pieces: tuple[bytes, ...] = ()
    if token.piece or b"" in listed or _STAND_IN in bytes(token.top) or _STAND_IN in text:
        # Fewer than one list in a thousand: searching its packed bytes is far cheaper than searching each piece.
        loose_pieces = tuple([piece for piece in listed if has_many_tokens(piece)])
    likeliest = max(listed.values())
    favourite = next(piece for piece, p in listed.items() if p == likeliest)
    return Proposal(own, listed, rest, unlisted, all_loose, loose_pieces, True, likeliest, favourite)


def end_proposal(mark: Finished) -> Proposal:
    """What a member proposed where its answer ended: b"" is the end."""
    quality: Quality = "real" if mark.logprob is not None or unpack_top(mark.top) else "missing"
    end = Token(mark.member, mark.claim, 0, "answer", "", 0, 0, mark.logprob, quality, top=mark.top)
    # Not at position 0, where white space is dropped: the end has none.
    return proposal_of(end, 1)


def _is_of_a_later_position(piece: bytes, text: bytes) -> bool:
    """True where the text before the piece is that of several tokens, or whole characters (rule 4)."""
    hidden = len(text) - len(piece)
    if piece.startswith(text) or hidden == 0:
        return False
    begins_inside = 0x80 <= piece[0] < 0xC0
    return hidden > _MOST_HIDDEN_BYTES or (text.endswith(piece) and not begins_inside)


def _placed(
    listed: dict[bytes, float], sampled: bytes, text: bytes, p_sampled: float | None, start: int
) -> tuple[dict[bytes, float], bytes]:
    """The pieces as they are in the answer, and the sampled one among them (rules 1 to 3)."""
    if text.endswith(sampled):
        if before := text[: len(text) - len(sampled)]:
            listed, sampled = {before + piece: p for piece, p in listed.items()}, text
    elif not sampled.startswith(text) and p_sampled is not None:
        listed = dict(listed)
        left = listed.pop(sampled, 0.0) - p_sampled
        if left > 0.0:
            listed[sampled] = left
        listed[text] = listed.get(text, 0.0) + p_sampled
        sampled = text
    if not start:
        listed = added_up((leading_space_dropped(piece), p) for piece, p in listed.items())
        sampled = leading_space_dropped(sampled)
    return listed, sampled


def _probability(logprob: float) -> float:
    """exp(logprob) in [0, 1]. A logprob above 0 is a server's rounding."""
    return math.exp(logprob) if logprob < 0.0 else 1.0
