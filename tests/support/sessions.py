"""Sessions for tests: openings, their entries in Redis, and the checks of the law."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from aggregator.core.replay import StreamReplay
from aggregator.core.session import Closed
from schemas import keys
from schemas.entries import AnyEntry, Finished, Token, decode_entry
from schemas.errors import Malformed
from schemas.frames import Frame, encode_frame
from schemas.sessions import ENTRY_VERSION, Limits, Member, Opening, Sampling
from tests.support.waiting import until
from transport.answers import Answers, find_released
from transport.redis.connection import AsyncPipe
from transport.sessions import SessionState, find_session, new_session_id, read_opening


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
    """The core alone, from the token stream, reproduces every committed frame byte for byte; none is missing or twice;
    and check_tokens(). Returns the frames."""
    committed = await committed_frames(pipe, session)
    assert [entry_id for entry_id, _ in committed] == [keys.frame_id(k) for k in range(len(committed))]
    frames = check_tokens(await token_stream(pipe, session), len(committed))
    assert [encode_frame(frame) for frame in frames[: len(committed)]] == [raw for _, raw in committed]
    return frames[: len(committed)]


def check_tokens(stream: list[tuple[str, bytes]], windows: int = 0) -> list[Frame]:
    """Each accepted token of the stream is in one frame at most, and those that are in frames are the first ones of
    each branch of a member, without a gap. Of a session that has ended, each other one is counted as superseded.
    Returns the frames, up to the last entry, but at least `windows`."""
    replay = StreamReplay(stream[0])
    frames, branches = list[Frame](), [0] * len(replay.session.progress)
    # (member, branch, seq) of each token.
    shown, accepted = list[tuple[int, int, int]](), set[tuple[int, int, int]]()
    for closed in _windows_of(replay, stream, windows):
        frames.append(closed.frame)
        shown += [(token.member, branches[token.member], token.seq) for token in closed.frame.tokens]
        accepted |= {(mark.member, mark.branch - 1, seq) for mark in closed.steered for seq in range(mark.tokens)}
        branches = [progress.branch for progress in replay.session.progress]
    for member, progress in enumerate(replay.session.progress):
        accepted |= {(member, progress.branch, seq) for seq in range(progress.next_seq)}
    counts = Counter((member, branch) for member, branch, _ in shown)
    assert sorted(shown) == [(*of, seq) for of in sorted(counts) for seq in range(counts[of])]
    assert accepted >= {*shown}
    if frames and frames[-1].final:
        # Tokens of a branch that a steer has ended may come too late to be accepted, and are counted as well.
        written = sum(isinstance(entry, Token) for entry in _decoded(stream))
        superseded = sum(frame.counts.superseded for frame in frames)
        assert 0 <= superseded - len(accepted - {*shown}) <= written - len(accepted)
    return frames


def _windows_of(replay: StreamReplay, stream: list[tuple[str, bytes]], windows: int) -> Iterator[Closed]:
    """Each window when it is closed: the replay's session is then as it was."""
    for entry in stream[1:]:
        yield from replay.add(entry)
    yield from replay.close_gathered()
    yield from replay.close_to(windows - 1)


async def check_each_token_in_one_frame(pipe: AsyncPipe, session: str) -> list[Frame]:
    """The law; and in a session that has ended by itself: its answers follow from the accepted tokens, and every token
    in its frames is where these answers have it. Returns the frames."""
    frames = await check_the_law(pipe, session)
    found = await find_released(pipe, session)
    state = found.state
    assert frames
    assert frames[-1].final
    assert (state.status, state.window) == ("ended", len(frames) - 1)
    answers = Answers(await read_opening(pipe, state), state.opened)
    await answers.catch_up(pipe, state, found.frame)
    texts = ["".join(frame.members[member].text for frame in frames) for member in range(len(state.progress))]
    assert answers.texts(frames[-1])[0] == texts
    for member, answer in enumerate(answers.of_member):
        placed = [answer.bounds(index) for index in answer.tokens_of(answer.overlapping(0, None))]
        tokens = [token for frame in frames for token in frame.tokens if token.member == member]
        assert [(token.start, token.end) for token in tokens if token.lane == "answer"] == placed
        assert len(texts[member].encode()) == frames[-1].members[member].position_bytes
    return frames


def check_one_text(frames: list[Frame]) -> str:
    """The text of a council that has written one answer, after the checks of it: decisions tile it, and each member's
    text is it, or the beginning of it where the member left before the end."""
    agreed = "".join(frame.consensus.agreed or "" for frame in frames)
    decisions = [decision for frame in frames for decision in frame.consensus.decisions or ()]
    ends = [decision.end for decision in decisions]
    # The prefix is agreed without a decision.
    assert [decision.at for decision in decisions] == [decisions[0].at, *ends[:-1]]
    assert ends[-1] == len(agreed.encode())
    texts = ["".join(frame.members[member].text for frame in frames) for member in range(len(frames[0].members))]
    assert all(agreed.startswith(text) for text in texts)
    assert agreed in texts
    return agreed


async def check_all_finished(pipe: AsyncPipe, session: str) -> list[Frame]:
    """As check_each_token_in_one_frame; and every member finished, with as many tokens as its producer counted."""
    frames = await check_each_token_in_one_frame(pipe, session)
    assert [(m.model, m.state, m.reason) for m in frames[-1].members if m.state != "finished"] == []
    progress = (await find_session(pipe, session)).progress
    entries = _decoded(await token_stream(pipe, session))
    counted = {entry.member: entry.tokens for entry in entries if isinstance(entry, Finished)}
    assert counted == {member: one.next_seq for member, one in enumerate(progress)}
    return frames


def _decoded(stream: list[tuple[str, bytes]]) -> list[AnyEntry]:
    """The entries of a token stream, without those that do not decode."""
    entries: list[AnyEntry] = []
    for _, raw in stream:
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
