"""What follows the answer so far, in what a model server sends for it. Pure.

    answer so far   "The capital of "     sent to the server without the white space behind its last word
    it sends        " France" " is"       the white space again: "France" " is" follows
                    "The capital of" ...  the answer so far again, from some servers: it is left out as well

A model derails after white space that its tokens have at the beginning of a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from producers.backend import LENGTH, Chunk, Ending, Piece


def without_white_space(text: str, characters: str | None = None) -> tuple[str, str]:
    """(the text up to its last word, the white space behind it); of `characters` alone, where these are named."""
    kept = text.rstrip(characters)
    return kept, text[len(kept) :]


class Following:
    """Leaves out what is not the continuation: `repeated`, which the server is known to send again, and then the
    beginning of `white_space`. An answer may lack both."""

    def __init__(self, white_space: str, repeated: str = "") -> None:
        self._white_space, self._repeated = white_space, repeated.strip()
        # The first characters of `repeated` that have come, and the pieces in which they came.
        self._at, self._held = 0, list[Piece]()

    def feed(self, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
        """The pieces that follow for certain after these ones."""
        if self._repeated:
            pieces = [behind for piece in pieces for behind in self._behind_repetition(piece)]
        return self._after_white_space(tuple(pieces))

    def shown(self, item: Chunk | Ending) -> Iterator[Chunk | Ending]:
        """The chunk with what follows, which may be nothing; before an ending what was kept back."""
        if isinstance(item, Ending):
            # A server that repeats ends inside the repetition only at the length of the answer.
            if self._held and item.reason != LENGTH:
                yield Chunk(self._after_white_space(tuple(self._held)))
            yield item
        else:
            yield Chunk(self.feed(item.pieces))

    def _behind_repetition(self, piece: Piece) -> Sequence[Piece]:
        """What follows for certain after this piece: nothing inside the repetition, and all of another beginning."""
        if not self._repeated or piece.lane != "answer":
            return (piece,)
        new = piece.text if self._at else piece.text.lstrip()
        again = self._repeated[self._at : self._at + len(new)]
        self._at += len(again)
        self._held.append(piece)
        if new.startswith(again) and self._at < len(self._repeated):
            return ()
        held, self._held, self._repeated = self._held, [], ""
        if not new.startswith(again):
            return held
        return (without_start(piece, piece.text.removesuffix(new) + again),) if new != again else ()

    def _after_white_space(self, pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
        if not self._white_space:
            return pieces
        following: list[Piece] = []
        for piece in pieces:
            again = _same_start(self._white_space, piece.text) if piece.lane == "answer" else ""
            if piece.lane == "answer" and piece.text:
                self._white_space = self._white_space[len(again) :] if again == piece.text else ""
            if again != piece.text or not again:
                following.append(without_start(piece, again) if again else piece)
        return tuple(following)


def _same_start(one: str, other: str) -> str:
    most = min(len(one), len(other))
    return next((one[:length] for length in range(most, 0, -1) if other.startswith(one[:length])), "")


def without_start(piece: Piece, start: str) -> Piece:
    """The piece of a token without the beginning of its text, which stands before. Its list contains what follows that
    beginning; the others' share is part of what it lacks. It has no id: the token alone would repeat its beginning."""
    text, raw, cut = piece.text.removeprefix(start), piece.piece or piece.text.encode(), start.encode()
    if not raw.startswith(cut):
        return Piece(text, piece.lane)
    rest = raw[len(cut) :]
    top = tuple(
        (listed[len(cut) :], logprob) for listed, logprob in piece.top if listed.startswith(cut) and listed != cut
    )
    own = rest if rest != text.encode() else b""
    return msgspec.structs.replace(piece, text=text, piece=own, top=top, token=None)
