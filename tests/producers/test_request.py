"""The messages of a request, and the answer so far that it contains."""

from __future__ import annotations

from producers.backend import Piece, Request, Written, stretches_of
from schemas.sessions import Message

REQUEST = Request("Why?", "Be brief.", 8, 0.0, None, 5, 30_000, (Message("user", "Hi"), Message("assistant", "Yes?")))
QUESTION = (Message("system", "Be brief."), *REQUEST.history, Message("user", "Why?"))


def test_the_answer_so_far_is_one_last_message_and_an_empty_one_is_none() -> None:
    def messages(*prefix: Written) -> tuple[Message, ...]:
        request = Request(*(getattr(REQUEST, name) for name in Request.__struct_fields__[:8]), prefix=prefix)
        assert request.question == QUESTION
        assert request.continues == any(stretch.text or stretch.ids for stretch in prefix)
        return request.messages

    assert messages() == messages(Written("")) == messages(Written("", (7,))) == QUESTION
    assert messages(Written("It", (1,)), Written(" is")) == (*QUESTION, Message("assistant", "It is"))


def test_an_answer_is_divided_into_own_tokens_and_text_without_its_thinking() -> None:
    pieces = [
        Piece("Hm", "thinking", token=9),
        Piece("It", token=1),
        Piece("", token=2),
        Piece("é", token=3),
        Piece(""),
        Piece(" is"),
        Piece(" so", token=4),
    ]
    assert stretches_of(pieces) == (Written("Ité", (1, 2, 3)), Written(" is"), Written(" so", (4,)))
