"""What follows the answer so far, in what a model server sends for it. Pure.

    answer so far   "The capital of "     sent to the server without the white space behind its last word
    it sends        " France" " is"       the white space again: "France" " is" follows
                    "The capital of" ...  the answer so far again, from some servers: it is left out as well

A model derails after white space that its tokens have at the beginning of a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from producers.backend import Chunk, Ending, Piece


def without_white_space(text: str, characters: str | None = None) -> tuple[str, str]:
    """(the text up to its last word, the white space behind it); of `characters` alone, where these are named."""
    kept = text.rstrip(characters)
    return kept, text[len(kept) :]


class Following:
    """Leaves out what is not the continuation: `repeated`, if the whole answer begins with it, and then the beginning
    of `white_space`. An answer may lack both."""

    def __init__(self, white_space: str, repeated: str = "") -> None:
        self._white_space, self._repeated = white_space, repeated.strip()
        # Pieces of what may become a repetition.
        self._held: tuple[Piece, ...] = ()

    def feed(self, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
        """The pieces that follow for certain after these ones."""
        if not self._repeated:
            return self._after_white_space((*self._held, *pieces))
        self._held += tuple(pieces)
        text = "".join(piece.text for piece in self._held if piece.lane == "answer")
        begun = text.lstrip()
        if len(begun) < len(self._repeated) and self._repeated.startswith(begun):
            return ()
        if begun.startswith(self._repeated):
            return self._after_white_space(self._released(len(text) - len(begun) + len(self._repeated)))
        return self._after_white_space(self._released(0))

    def shown(self, item: Chunk | Ending) -> Iterator[Chunk | Ending]:
        """The chunk with what follows, if anything does; before an ending what was kept back."""
        if isinstance(item, Ending):
            if rest := self.end():
                yield Chunk(rest)
            yield item
        elif (pieces := self.feed(item.pieces)) or not item.pieces:
            yield Chunk(pieces)

    def end(self) -> tuple[Piece, ...]:
        """What was kept back, when the answer has ended."""
        return self._after_white_space(self._released(0))

    def _released(self, left_out: int) -> tuple[Piece, ...]:
        """The held pieces without their first characters."""
        held, self._held, self._repeated = self._held, (), ""
        following = []
        for piece in held:
            cut = min(left_out, len(piece.text)) if piece.lane == "answer" else 0
            left_out -= cut
            if not cut:
                following.append(piece)
            elif cut < len(piece.text):
                following.append(without_start(piece, piece.text[:cut]))
        return tuple(following)

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
