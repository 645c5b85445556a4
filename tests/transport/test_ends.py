"""The marks with which members finished, found again in the token stream of a real Redis. Its frames are the core's."""

from __future__ import annotations

import msgspec
import pytest

from aggregator.core.session import Session
from schemas import keys
from schemas.control import encode_progress
from schemas.entries import AnyEntry, Cancel, Claim, Failed, Finished, Token, encode_entry
from schemas.errors import SessionGone
from schemas.frames import encode_frame
from schemas.grid import window_of_entry
from schemas.sessions import Opening
from tests.support.sessions import opening_of
from transport import ends
from transport.ends import find_finished
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session

# A millisecond after the opening, so far apart that each entry is in a window of its own.
_APART_MS = 20


async def write(pipe: AsyncPipe, opening: Opening, *entries: AnyEntry | bytes, cut: int | None = None) -> None:
    """Opens the session, writes these entries under the ids "@1", "@2" and so on, and commits the windows up to the
    entry number `cut` of them, which is the last one by default. Claims in the entries name these ids."""
    opened = await open_session(pipe, opening)
    core, base_ms = Session(opening, opened), keys.entry_ms(opened) + 1
    id_of = {f"@{number}": f"{base_ms + _APART_MS * number}-0" for number in range(1, len(entries) + 1)}
    stream = []
    for entry_id, entry in zip(id_of.values(), entries, strict=True):
        if isinstance(entry, Token | Finished | Failed):
            entry = msgspec.structs.replace(entry, claim=id_of[entry.claim])
        raw = entry if isinstance(entry, bytes) else encode_entry(entry)
        await pipe.one("XADD", keys.tokens(opening.session), entry_id, keys.ENTRY_FIELD, raw)
        stream.append((entry_id, raw))
    for entry_id, raw in stream[:cut]:
        while core.record.window < window_of_entry(core.origin_ns, keys.entry_ms(entry_id)):
            core.close([])
        frame = core.close([(entry_id, raw)]).frame
    await pipe.one("XADD", keys.frames(opening.session), "*", keys.ENTRY_FIELD, encode_frame(frame))
    fields = {"cut": core.record.cut, "window": frame.window_index, "progress": encode_progress(core.progress)}
    await pipe.one("HSET", keys.state(opening.session), *[part for pair in fields.items() for part in pair])


def token(member: int, claim: str, seq: int) -> Token:
    return Token(member, claim, seq, "answer", "a", 0, 0)


def end(member: int, claim: str, tokens: int, prompt_tokens: int | None) -> Finished:
    return Finished(member, claim, 0, tokens, prompt_tokens=prompt_tokens)


@pytest.mark.parametrize("page", [1, 3, 500])
async def test_of_each_member_that_finished_the_mark_of_its_winning_claim_is_found(
    pipe: AsyncPipe, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    member 0   claim 1   token, token             finished (3: ignored)   finished (2)   the same once more
    member 1   claim 2   claim 3 wins: token      finished of claim 2     finished of claim 3, without a number
    member 2   claim 4   token                    cancelled               finished, too late
    member 3   claim 5   token                    failed
    member 4   claim 6   token                    finished, behind the last committed entry
    """
    monkeypatch.setattr(ends, "_PAGE", page)
    opening = msgspec.structs.replace(opening_of(*"abcde"), sync="free")
    entries: list[AnyEntry | bytes] = [
        Claim(0, 0), Claim(1, 0), Claim(1, 0), Claim(2, 0), Claim(3, 0), Claim(4, 0),
        token(0, "@1", 0), token(1, "@3", 0), token(2, "@4", 0), token(3, "@5", 0), token(4, "@6", 0),
        end(0, "@1", 3, 1), token(0, "@1", 1), b"not an entry", end(1, "@2", 1, 2), end(1, "@3", 1, None),
        Failed(3, "@5", 0, "broken"), Cancel((2,)), end(2, "@4", 1, 3), end(0, "@1", 2, 29), end(0, "@1", 2, 29),
        end(0, "@1", 0, 4), end(4, "@6", 1, 5),
    ]  # fmt: skip
    await write(pipe, opening, *entries, cut=-1)
    found = await find_finished(pipe, opening.session, range(9))
    assert {member: mark.prompt_tokens for member, mark in found.items()} == {0: 29, 1: None}
    assert (await find_finished(pipe, opening.session, [1])).keys() == {1}
    assert await find_finished(pipe, opening.session, [2, 3, 4]) == {}


async def test_a_mark_far_before_the_end_costs_no_more_than_so_many_pages(
    pipe: AsyncPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing before the claims of the missing members is read, and in all no more than the bound."""
    monkeypatch.setattr(ends, "_PAGE", 4)
    opening = msgspec.structs.replace(opening_of("a", "b"), sync="free")
    tokens = [token(1, "@2", seq) for seq in range(30)]
    await write(pipe, opening, Claim(0, 0), Claim(1, 0), end(0, "@1", 0, 7), *tokens, end(1, "@2", 30, 8))
    for pages, expected in ((8, {0: 7, 1: 8}), (7, {1: 8}), (0, {})):
        monkeypatch.setattr(ends, "_MOST_PAGES", pages)
        found = await find_finished(pipe, opening.session, (0, 1))
        assert {member: mark.prompt_tokens for member, mark in found.items()} == expected


async def test_a_session_without_a_frame_has_no_marks_and_one_that_is_gone_is_an_error(pipe: AsyncPipe) -> None:
    opening = opening_of("a")
    await open_session(pipe, opening)
    assert await find_finished(pipe, opening.session, [0]) == {}
    with pytest.raises(SessionGone):
        await find_finished(pipe, "absent", [0])
