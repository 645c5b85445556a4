"""Real producers and a real aggregator that write one answer together, while connections break and owners die."""

from __future__ import annotations

import msgspec

from aggregator.core.replay import replayed
from schemas.entries import Steered, decode_entry
from schemas.frames import Frame, decode_frame, encode_frame
from schemas.sessions import Limits, Opening
from tests.support.role_processes import Roles
from tests.support.sessions import committed_frames, opening_of, token_stream, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session

MODELS = ("ngram:word-3", "ngram:bpe-2", "ngram:bpe-3")
# A member is not left behind in the seconds of a takeover: the answer then does not depend on time.
LIMITS = Limits(detach_ms=20_000)


async def frames_of(pipe: AsyncPipe, session: str) -> list[Frame]:
    """The frames of a session that has ended, which the core alone computes from its token stream too."""
    committed = [raw for _, raw in await committed_frames(pipe, session)]
    alone = replayed(await token_stream(pipe, session), len(committed))
    assert [encode_frame(closed.frame) for closed, _ in zip(alone, committed, strict=False)] == committed
    return [decode_frame(raw) for raw in committed]


async def steers(pipe: AsyncPipe, opening: Opening) -> int:
    stream = await token_stream(pipe, opening.session)
    return sum(isinstance(decode_entry(raw), Steered) for _, raw in stream)


async def test_a_council_writes_the_same_answer_whatever_breaks(roles: Roles, pipe: AsyncPipe) -> None:
    """Once undisturbed; then connections break at each steer, and the aggregator dies after one."""
    owner = roles.start("aggregator")
    for role in [owner, *[roles.start("producers", model, "--tokens-per-s", "200") for model in MODELS]]:
        role.wait_ready()
    calm, stormy = (
        msgspec.structs.replace(
            opening_of(*MODELS, max_tokens=40, limits=LIMITS), sync="consensus", prefix="There are "
        )
        for _ in range(2)
    )
    await open_session(pipe, calm)
    await until_ended(pipe, calm.session)
    await open_session(pipe, stormy)
    seen = 0

    async def is_steered() -> bool:
        return await steers(pipe, stormy) > seen or (await find_session(pipe, stormy.session)).status == "ended"

    for number in range(4):
        await until(is_steered, "a member is steered")
        seen = await steers(pipe, stormy)
        await pipe.one("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        if number == 2:
            owner.kill()
            roles.ready("aggregator")
    await until_ended(pipe, stormy.session)
    answers = []
    for opening in (calm, stormy):
        frames = await frames_of(pipe, opening.session)
        agreed = "".join(frame.consensus.agreed or "" for frame in frames)
        texts = ["".join(frame.members[index].text for frame in frames) for index in range(len(MODELS))]
        # A member whose own tokens reach max_tokens leaves before the others.
        assert all(agreed.startswith(text) for text in texts)
        assert agreed in texts
        assert [(member.state, member.reason) for member in frames[-1].members] == [("finished", "length")] * 3
        answers.append(agreed)
    assert answers[0] == answers[1]
    assert len(answers[0].encode()) == len("There are ") + 40 * 4
    assert seen >= 4
