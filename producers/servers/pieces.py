"""From the logprob entries of a chunk to its pieces, for all model servers that send such entries. Pure.

    text of the chunk      "Hello, world"
    its logprob entries    "Hello" -0.2   "," -1.1   " world" -0.9      each with its list of the likeliest tokens
    pieces                 "Hello"        ","        " world"           the text, divided by the entries' own bytes

Where the entries' bytes do not concatenate to the text, the last entry has the whole text.
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
# vLLM's number for minus infinity, which JSON does not have: such a token cannot be drawn.
FLOOR = -9999.0


class ListedToken(msgspec.Struct, gc=False):
    """A token and its logprob, as a model server sends them. JSON has neither NaN nor infinity."""

    token: str | None = None
    bytes: list[int] | None = None
    logprob: float | None = None
    id: int | str | None = None


class LogprobEntry(ListedToken, gc=False):
    """The sampled token with the likeliest tokens at its position; it is one of them or not."""

    top_logprobs: list[ListedToken] | None = None


def measured_pieces(text: str, lane: Lane, entries: Sequence[LogprobEntry], top_k: int) -> tuple[Piece, ...]:
    """One piece for each entry, or one of quality `missing` for a text without entries; `top_k` alternatives were
    requested."""
    if not entries:
        return (Piece(text, lane),) if text else ()
    own = [piece_bytes(entry) for entry in entries]
    shares = text_shares(text, own)
    return tuple(
        measured(share, lane, piece, entry, top_k) for share, piece, entry in zip(shares, own, entries, strict=True)
    )


def text_shares(text: str, pieces: Sequence[bytes]) -> list[str]:
    """A share of `text` for each piece; they concatenate to it. A character belongs to the piece that completes it."""
    if len(pieces) > 1 and b"".join(pieces) == text.encode():
        decoder = codecs.getincrementaldecoder("utf-8")()
        return [decoder.decode(piece) for piece in pieces]
    return [""] * (len(pieces) - 1) + [text]


def piece_bytes(listed: ListedToken) -> bytes:
    """The token's own bytes; without them its name in UTF-8, with plain white space."""
    if listed.bytes:
        try:
            return bytes(listed.bytes)
        except ValueError:  # numbers above 255: the name is used
            pass
    token = listed.token or ""
    if token == "<0x0A>":
        return b"\n"
    if not token.isascii():
        token = token.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")
    return token.encode()


def measured(text: str, lane: Lane, piece: bytes, entry: LogprobEntry, top_k: int) -> Piece:
    """The piece of one entry, with this shown text and these bytes. A stand-in for a measurement has the quality
    `placeholder`, without its numbers."""
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


def token_of(entry: LogprobEntry, piece: Piece) -> int | None:
    """The entry's id, where that token alone wrote the piece's text. llama-server sends the id of a character's last
    token for all of them: of a token that is not ASCII, its list must show what it is."""
    if not isinstance(entry.id, int) or piece.piece or not piece.text:
        return None
    if piece.text.isascii():
        return entry.id
    raw, listed = piece.text.encode(), entry.top_logprobs or ()
    return entry.id if any(one.id == entry.id and piece_bytes(one) == raw for one in listed) else None


def _last_token(piece: bytes, logprob: float | None, top: Sequence[tuple[bytes, float]]) -> bytes:
    """For a character that is split over tokens, llama-server names all its bytes and lists the last token alone.

    That token is the one in the list that ends the piece, with the same probability to the last digit.
    """
    if any(listed == piece for listed, _ in top):
        return piece
    return next((listed for listed, p in top if listed and p == logprob and piece.endswith(listed)), piece)


def _distinct(listed: Sequence[ListedToken]) -> tuple[tuple[bytes, float], ...]:
    """Each token that can be drawn once, in the order received, at most MAX_TOP. Two tokens with the same bytes both
    stay: their probabilities add up."""
    # Twenty of these are a third of the cost of a token: hence no function calls where they can be avoided.
    top: dict[object, tuple[bytes, float]] = {}
    for alternative in islice(listed, MAX_TOP):
        logprob = alternative.logprob
        if logprob is None or logprob <= FLOOR:
            continue
        try:
            piece = bytes(alternative.bytes) if alternative.bytes else piece_bytes(alternative)
        except ValueError:
            piece = piece_bytes(alternative)
        # The id distinguishes tokens with the same bytes; not every server sends it.
        token = (alternative.token, piece) if alternative.id is None else alternative.id
        if token not in top:
            top[token] = (piece, logprob if logprob < 0.0 else 0.0)
    return tuple(top.values())
