"""The tokens of an answer, with what is held back of it."""

from __future__ import annotations

from consumers.web.openai.logprobs import MemberTokens, MixtureTokens
from schemas.entries import Token
from schemas.frames import ConsensusFrame, MixtureSpan
from tests.support.frames import made_frame


def token(text: str, piece: bytes = b"") -> Token:
    return Token(0, "1-0", 0, "answer", text, 0, 0, -0.5, "real", piece)


def test_the_bytes_of_the_tokens_are_those_of_the_text_where_a_character_has_several() -> None:
    tokens = [token("", "€".encode()[:1]), token("", b"<tag>"), token("€", "€".encode()[1:]), token(" end")]
    shown = MemberTokens(0).add(tokens, len("€ end".encode()))
    assert b"".join(bytes(one.bytes) for one in shown).decode() == "€ end"
    assert [one.token for one in shown] == ["", "€", " end"]


def test_a_span_whose_text_is_held_back_follows_with_its_text() -> None:
    mixture = MixtureTokens(0)
    frame = made_frame(0, (), consensus=ConsensusFrame("It is E", (), (MixtureSpan(0, 5), MixtureSpan(5, 7))))
    assert [one.token for one in mixture.add([frame], len("It is "))] == ["It is"]
    assert [one.token for one in mixture.add([], len("It is E"))] == [" E"]
