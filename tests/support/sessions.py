"""Sessions for tests: openings, their entries in Redis, and the checks of the law."""

from __future__ import annotations

import contextlib

from aggregator.core.replay import replayed
from schemas import keys
from schemas.entries import AnyEntry, Finished, Token, decode_entry
from schemas.errors import Malformed
from schemas.frames import Frame, decode_frame, encode_frame
from schemas.sessions import ENTRY_VERSION, Limits, Member, Opening, Sampling
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import SessionState, find_session, new_session_id


def opening_of(
    *models: str,
    max_tokens: int = 64,
    limits: Limits | None = None,
    prompt: str = "What is a list?",
    temperature: float = 0.7,
) -> Opening:
    """An opening with a fixed seed. At temperature 0 an n-gram model uses all its tokens; at 0.7 it may end before."""
    return Opening(
        version=ENTRY_VERSION,
        session=new_session_id(),
        prompt=prompt,
        members=tuple(Member(model) for model in models),
        sampling=Sampling(max_tokens, temperature, seed=7),
        limits=limits or Limits(),
    )


async def until_ended(pipe: AsyncPipe, session: str, timeout_s: float = 60.0) -> SessionState:
    """Waits for the session's end."""

    async def ended() -> SessionState | None:
        state = await find_session(pipe, session)
        return state if state.status == "ended" else None

    return await until(ended, f"session {session} ends", timeout_s)


async def committed_frames(pipe: AsyncPipe, session: str) -> list[tuple[str, bytes]]:
    """Every frame in Redis, as (entry id, bytes)."""
    entries = await pipe.one("XRANGE", keys.frames(session), "-", "+")
    return [(entry[0].decode(), entry[1][1]) for entry in entries]


async def token_stream(pipe: AsyncPipe, session: str) -> list[tuple[str, bytes]]:
    """The whole token stream."""
    entries = await pipe.one("XRANGE", keys.tokens(session), "-", "+")
    return [(entry[0].decode(), entry[1][1]) for entry in entries]


async def check_the_law(pipe: AsyncPipe, session: str) -> list[Frame]:
    """The core alone, from the token stream, reproduces every committed frame byte for byte; none is missing or twice.

    Also: each member's tokens are in the frames once, without a gap, unless a council that writes one answer discarded
    some. Returns the frames.
    """
    committed = await committed_frames(pipe, session)
    assert [entry_id for entry_id, _ in committed] == [keys.frame_id(k) for k in range(len(committed))]
    alone = replayed(await token_stream(pipe, session), len(committed))
    again = [encode_frame(closed.frame) for closed, _ in zip(alone, committed, strict=False)]
    assert again == [raw for _, raw in committed]
    frames = [decode_frame(raw) for _, raw in committed]
    seen = [(token.member, token.seq) for frame in frames for token in frame.tokens]
    assert frames[0].consensus.agreed is not None or sorted(seen) == [
        (m, seq) for m in sorted({m for m, _ in seen}) for seq in range(sum(x == m for x, _ in seen))
    ]
    return frames


async def check_each_token_in_one_frame(pipe: AsyncPipe, session: str) -> list[Frame]:
    """The law; and in a session that has ended by itself every accepted (member, claim, seq) is in exactly one frame.

    The accepted tokens follow from the token stream: the entries of the winning claim whose seq is the next one, up to
    the next seq in the session's state. Returns the frames.
    """
    frames = await check_the_law(pipe, session)
    state = await find_session(pipe, session)
    assert frames
    assert frames[-1].final
    assert (state.status, state.window) == ("ended", len(frames) - 1)
    accepted: list[list[Token]] = [[] for _ in state.progress]
    for entry in await _decoded(pipe, session):
        if isinstance(entry, Token):
            progress, found = state.progress[entry.member], accepted[entry.member]
            if entry.claim == progress.claim and entry.seq == len(found) < progress.next_seq:
                found.append(entry)
    for member, tokens in enumerate(accepted):
        assert len(tokens) == state.progress[member].next_seq
        seqs = [token.seq for frame in frames for token in frame.tokens if token.member == member]
        assert sorted(seqs) == list(range(len(tokens)))
        text = "".join(frame.members[member].text for frame in frames)
        assert text == "".join(token.text for token in tokens if token.lane == "answer").lstrip(" \t\r\n\v\f")
    return frames


async def check_all_finished(pipe: AsyncPipe, session: str) -> list[Frame]:
    """As check_each_token_in_one_frame; and every member finished, with as many tokens as its producer counted."""
    frames = await check_each_token_in_one_frame(pipe, session)
    assert [(m.model, m.state, m.reason) for m in frames[-1].members if m.state != "finished"] == []
    progress = (await find_session(pipe, session)).progress
    entries = await _decoded(pipe, session)
    counted = {entry.member: entry.tokens for entry in entries if isinstance(entry, Finished)}
    assert counted == {member: one.next_seq for member, one in enumerate(progress)}
    return frames


async def _decoded(pipe: AsyncPipe, session: str) -> list[AnyEntry]:
    """The entries of the token stream, without those that do not decode."""
    entries: list[AnyEntry] = []
    for _, raw in await token_stream(pipe, session):
        with contextlib.suppress(Malformed):
            entries.append(decode_entry(raw))
    return entries


async def written_texts(pipe: AsyncPipe, session: str, lane: str = "answer") -> dict[int, str]:
    """The text that each member's producer wrote, each (claim, seq) once, in the order of the members."""
    texts: dict[int, str] = {}
    seen: set[tuple[int, str, int]] = set()
    for _, raw in await token_stream(pipe, session):
        with contextlib.suppress(Malformed):
            entry = decode_entry(raw)
            if isinstance(entry, Token) and entry.lane == lane and (entry.member, entry.claim, entry.seq) not in seen:
                seen.add((entry.member, entry.claim, entry.seq))
                texts[entry.member] = texts.get(entry.member, "") + entry.text
    return dict(sorted(texts.items()))
