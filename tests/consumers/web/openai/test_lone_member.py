"""The tokens of a session's only member are those that its frames accept, whatever the token stream contains."""

from __future__ import annotations

import msgspec
import pytest

from aggregator.core.session import Session
from consumers.web.openai.lone_member import LoneMember
from schemas.entries import AnyEntry, Cancel, Claim, Failed, Finished, Starved, Token, encode_entry
from tests.support.sessions import opening_of

OPENED = 1_000_000
A, B = f"{OPENED + 1}-0", f"{OPENED + 1}-1"


def token(text: str, seq: int, claim: str = A, branch: int = 0) -> Token:
    return Token(0, claim, seq, "answer", text, 0, 0, branch=branch)


@pytest.mark.parametrize(
    "entries",
    [
        [token("a", 0), token("b", 1), Finished(0, A, 0, 2), token("c", 2)],
        [token("a", 0), token("a", 0), token("c", 2), token("b", 1)],
        [token("a", 0), Finished(0, A, 0, 2), token("b", 1), Finished(0, A, 0, 2)],
        [token("a", 0), Finished(0, A, 0, 1, branch=1), token("b", 1)],
        [token("a", 0), token("x", 0, branch=1), token("b", 1)],
        [Finished(0, "", 0, 0), token("a", 0)],
        [Failed(0, "", 0, "?"), token("a", 0)],
        [token("a", 0), Failed(0, "no id", 0, "?"), token("b", 1)],
        [token("a", 0), Failed(0, B, 0, "?"), token("b", 1)],
        [Failed(0, B, 0, "?"), token("a", 0)],
        [Starved(0, "", 0, "no memory"), token("a", 0)],
        [Starved(0, A, 0, "no memory"), token("a", 0)],
        [token("a", 0), Starved(0, A, 0, "no memory"), token("b", 1)],
        [token("a", 0), Cancel((), "?"), token("b", 1)],
        [token("a", 0), Cancel((0,), "?"), token("b", 1)],
        [token("a", 0), Cancel((0, 3), "?"), token("b", 1)],
        [token("a", 0), Cancel((3,), "?"), token("b", 1)],
    ],
)
def test_the_same_tokens_are_accepted_as_in_the_frames(entries: list[AnyEntry]) -> None:
    numbered = [(A, encode_entry(Claim(0, 0)))]
    numbered += [(f"{OPENED + 1}-{number}", encode_entry(entry)) for number, entry in enumerate(entries, 1)]
    session = Session(msgspec.structs.replace(opening_of("calm"), sync="free"), f"{OPENED}-0")
    frame = session.close(numbered).frame
    member = LoneMember()
    found = [one for entry_id, raw in numbered if (one := member.take(entry_id, raw)) is not None]
    assert len(found) == session.progress[0].next_seq
    assert "".join(one.text for one in found).startswith(frame.members[0].text)
    assert member.is_over == session.progress[0].ended
