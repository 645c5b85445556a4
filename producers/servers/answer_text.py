"""From the texts and the logprob entries of a chunk to its pieces, for all model servers. Pure.

    content "<thi"  "nk>Hm</think>Y"  "es"  -->  Piece("Hm", thinking)  Piece("Yes", answer)
    reasoning "Hm"                          -->  Piece("Hm", thinking)

Half a character and what may become a tag are kept back, and shown with the text that completes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from producers.backend import Piece
from producers.servers.halves import Halves
from producers.servers.pieces import LogprobEntry, measured, measured_pieces, piece_bytes, text_shares, token_of
from producers.servers.thinking import ThinkingSplitter
from schemas.entries import Lane

# vLLM with --return-tokens-as-token-ids: such an entry has no text that could be compared.
_TOKEN_ID = re.compile(r"token_id:\d+$")
# The end of thinking on a line of its own, of a model whose template had begun it.
_END_ALONE = re.compile(r"(\A|\n)\s*</think>\s*\n")
_TAIL_CHARS = 32


class AnswerText:
    """The text of one answer. `top_k` alternatives a token were requested.

    `lane` is the one in which the model begins: an entry without text has the lane of the text before it.
    `begins_thinking`: the chat template is known, or supposed, to open the thinking. `continues`: all of it is the
    answer. `has_ids`: the entries have ids with which the model can continue its text.
    """

    def __init__(
        self,
        top_k: int,
        lane: Lane = "answer",
        *,
        begins_thinking: bool = False,
        continues: bool = False,
        has_ids: bool = False,
    ) -> None:
        self._top_k = top_k
        self._lane: Lane = lane
        self._splitter = ThinkingSplitter(begins_thinking=begins_thinking)
        if continues:
            self._splitter.begin_answer()
        self._has_ids = has_ids
        # A token without text, which may be the end of the answer.
        self._end: tuple[Piece, ...] = ()
        self._halves: dict[Lane, Halves] = {"answer": Halves(), "thinking": Halves()}
        # What only a supposition made thinking.
        self._supposed: list[str] = []
        self._tail = ""
        # True once the lane has text other than white space.
        self.has_answer = self.has_thinking = False
        # True where the model wrote the end of a thinking that it had not begun.
        self.ended_unopened = False

    def pieces(self, answer: str, thinking: str, entries: Sequence[LogprobEntry]) -> tuple[Piece, ...]:
        """The pieces that are certain after these texts. The entries of a chunk with both texts cannot be told apart,
        and go to its answer."""
        if entries and any(_TOKEN_ID.match(entry.token or "") for entry in entries):
            entries = ()
        own: tuple[Piece, ...] = ()
        if thinking:
            self._splitter.take_apart()
            self._lane = "thinking"
            shown = self._halves["thinking"].feed(thinking)
            own = measured_pieces(shown, "thinking", () if answer else entries, self._top_k)
        if answer:
            self._lane = "answer"
            own += self._divided(self._halves["answer"].feed(answer), entries)
        elif not thinking and entries:
            is_thinking = self._lane == "thinking"
            own = measured_pieces("", self._lane, entries, self._top_k) if is_thinking else self._divided("", entries)
        if self._has_ids and len(own) == len(entries) == 1:
            own = (msgspec.structs.replace(own[0], token=token_of(entries[0], own[0])),)
        if not own:
            return ()
        own = (*self._end, *own)
        self._end = own[-1:] if _may_be_end(own[-1]) else ()
        return self._noted(own[: len(own) - len(self._end)])

    @property
    def end(self) -> Piece | None:
        """The token with which the model ended the answer, where the server has sent it; after rest()."""
        return self._end[0] if self._end else None

    def rest(self, *, has_stopped: bool = False) -> tuple[Piece, ...]:
        """What was kept back, at the end of the text. `has_stopped`: the model ended by itself, so a thinking that was
        supposed, and never ended, was its answer, and a last token without text is the end."""
        own = self._divided(self._halves["answer"].end(), ())
        own += tuple(Piece(text, lane) for lane, text in self._splitter.end())
        if half := self._halves["thinking"].end():
            own = (Piece(half, "thinking"), *own)
        if not has_stopped:
            own, self._end = (*self._end, *own), ()
        own = self._noted(own)
        if has_stopped and self._splitter.is_supposed and not self.has_answer and self._supposed:
            answer, self._supposed = "".join(self._supposed), []
            own += self._noted((Piece(answer, "answer"),))
        return own

    def _divided(self, text: str, entries: Sequence[LogprobEntry]) -> tuple[Piece, ...]:
        """The pieces of a part of the content. One piece has the measurement of an entry; before it are those of text
        that is not its own."""
        if self._splitter.is_passing:
            self._look_for_end(text)
            return measured_pieces(text, "answer", entries, self._top_k)
        if not entries:
            return tuple(Piece(share, lane) for lane, share in self._splitter.feed(text)) if text else ()
        pieces: list[Piece] = []
        own = [piece_bytes(entry) for entry in entries]
        for share, raw, entry in zip(text_shares(text, own), own, entries, strict=True):
            before = self._splitter.lane
            shares = self._splitter.feed(share)
            # A tag has no text, and belongs to the thinking.
            no_text: tuple[Lane, str] = ("thinking" if before == "thinking" else self._splitter.lane, "")
            *earlier, (lane, shown) = shares or [no_text]
            pieces += [Piece(other, other_lane) for other_lane, other in earlier]
            pieces.append(measured(shown, lane, raw, entry, self._top_k))
        return tuple(pieces)

    def _look_for_end(self, text: str) -> None:
        if not (self.ended_unopened or self.has_thinking):
            text = self._tail + text
            self.ended_unopened = "</think>" in text and _END_ALONE.search(text) is not None
            self._tail = text[-_TAIL_CHARS:]

    def _noted(self, pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
        for piece in pieces:
            if piece.lane == "answer":
                self.has_answer = self.has_answer or bool(piece.text.strip())
            else:
                self.has_thinking = self.has_thinking or bool(piece.text.strip())
                if self._splitter.is_supposed:
                    self._supposed.append(piece.text)
        return pieces


def _may_be_end(piece: Piece) -> bool:
    """True for a token that has neither text nor bytes."""
    return not piece.text and not piece.piece and piece.quality == "real"
