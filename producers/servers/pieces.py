"""From the logprob entries of a chunk to its pieces, the same for every model server that sends such entries.

    text of the chunk      "Hello, world"
    its logprob entries    "Hello" -0.2   "," -1.1   " world" -0.9      each with its list of the most probable tokens
    pieces                 "Hello"        ","        " world"           the text, shared out by the entries' own bytes

Where the entries' bytes do not concatenate to the text, nobody knows who wrote what of it: the last entry has it all.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import islice

import msgspec

from producers.backend import Piece
from schemas.entries import Lane

# The longest list that a Token may carry.
MAX_TOP = 200
# What vLLM writes for minus infinity, which JSON has not: such a token cannot be drawn.
FLOOR = -9999.0


class ListedToken(msgspec.Struct, gc=False):
    """A token and its logprob, as a model server sends them; JSON knows no NaN and no infinity."""

    token: str | None = None
    bytes: list[int] | None = None
    logprob: float | None = None
    id: int | str | None = None


class LogprobEntry(ListedToken, gc=False):
    """The sampled token with the most probable tokens at its place, itself among them or not."""

    top_logprobs: list[ListedToken] | None = None


def measured_pieces(text: str, lane: Lane, entries: Sequence[LogprobEntry], top_k: int) -> tuple[Piece, ...]:
    """One piece per entry, or one of quality `missing` for a text without any; `top_k` alternatives were asked for."""
    if not entries:
        return (Piece(text, lane),) if text else ()
    own = [piece_bytes(entry) for entry in entries]
    shares = text_shares(text, own)
    return tuple(
        _measured(share, lane, piece, entry, top_k) for share, piece, entry in zip(shares, own, entries, strict=True)
    )


def text_shares(text: str, pieces: Sequence[bytes]) -> list[str]:
    """One share of `text` per piece; they concatenate to it. A character belongs to the piece that completes it."""
    if len(pieces) > 1 and b"".join(pieces) == text.encode():
        decoder = codecs.getincrementaldecoder("utf-8")()
        return [decoder.decode(piece) for piece in pieces]
    return [""] * (len(pieces) - 1) + [text]


def piece_bytes(listed: ListedToken) -> bytes:
    """The token's own bytes; without those its name in UTF-8, less what tokenizers write for white space."""
    if listed.bytes:
        try:
            return bytes(listed.bytes)
        except ValueError:  # numbers that are no bytes: the name has to do
            pass
    token = listed.token or ""
    if token == "<0x0A>":
        return b"\n"
    if not token.isascii():
        token = token.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")
    return token.encode()


def _measured(text: str, lane: Lane, piece: bytes, entry: LogprobEntry, top_k: int) -> Piece:
    """The piece of one entry. A stand-in for a measurement is named as such, and its numbers are not passed on."""
    top = _distinct(entry.top_logprobs or ()) if entry.logprob is not None else ()
    if not piece.isascii():
        piece = _last_token(piece, entry.logprob, top)
    differs = piece if piece != text.encode() else b""
    if entry.logprob is None:
        return Piece(text, lane, piece=differs)
    is_stand_in = entry.logprob <= FLOOR or (len(top) > 1 and all(listed == 0.0 for _, listed in top))
    if is_stand_in or (top_k > 0 and not top):
        return Piece(text, lane, quality="placeholder", piece=differs)
    return Piece(text, lane, min(entry.logprob, 0.0), "real", differs, top)


def _last_token(piece: bytes, logprob: float | None, top: Sequence[tuple[bytes, float]]) -> bytes:
    """Of a character that is split over tokens llama-server names all bytes, and lists the last token by its own.

    That token is the one that ends the piece, with the same probability to the last digit.
    """
    if any(listed == piece for listed, _ in top):
        return piece
    return next((listed for listed, p in top if listed and p == logprob and piece.endswith(listed)), piece)


def _distinct(listed: Sequence[ListedToken]) -> tuple[tuple[bytes, float], ...]:
    """Each token that can be drawn once, in the order received, at most MAX_TOP. Two tokens of one piece both stay:
    they add up."""
    # Twenty of these a token are a third of what a token costs: hence no calls where there need be none.
    top: dict[object, tuple[bytes, float]] = {}
    for alternative in islice(listed, MAX_TOP):
        logprob = alternative.logprob
        if logprob is None or logprob <= FLOOR:
            continue
        try:
            piece = bytes(alternative.bytes) if alternative.bytes else piece_bytes(alternative)
        except ValueError:
            piece = piece_bytes(alternative)
        # The number tells tokens of equal bytes apart; not every server sends it.
        token = (alternative.token, piece) if alternative.id is None else alternative.id
        if token not in top:
            top[token] = (piece, logprob if logprob < 0.0 else 0.0)
    return tuple(top.values())
