"""`council.ask`, and the errors of the Python API: each is one sentence, before anything is started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import council
from council import MemberAnswer, MemberSpec, Message, Refused, SessionRequest, TurboEnsemble
from council.answers import MemberAnswers
from schemas import keys
from schemas.frames import decode_frame
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import ScriptedProducer, offer_aggregator
from tests.support.sessions import committed_frames, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, list_sessions, read_opening

WORD, CHAR = "ngram:word-3", "ngram:char-6"
# As a program without a type checker calls it.
Call = Callable[..., Any]
ask: Call = council.ask


@pytest.fixture
async def ensemble(redis: RedisServer) -> AsyncIterator[Any]:
    async with TurboEnsemble(redis_url=redis.url) as found:
        yield found


async def test_ask_returns_the_answers(redis: RedisServer, roles: Roles, pipe: AsyncPipe) -> None:
    roles.ready("aggregator")
    for model in (WORD, CHAR):
        roles.ready("producers", model, "--tokens-per-s", "200")
    options: dict[str, Any] = {"max_tokens": 20, "seed": 7, "temperature": 0}
    answers = await council.ask("What is a list?", [WORD, f"b={CHAR}"], redis_url=redis.url, **options)
    assert [(one.name, one.model, one.state, one.reason) for one in answers] == [
        (WORD, WORD, "finished", "length"),
        ("b", CHAR, "finished", "length"),
    ]
    assert (answers["b"], answers["b"].tokens, len(answers)) == (answers[1], 20, 2)
    assert answers.texts == {WORD: answers[0].text, "b": answers[1].text}
    assert str(answers) == f"{WORD}:\n{answers[0].text}\n\nb:\n{answers[1].text}"
    assert repr(answers).startswith(f"<Answers of session {answers.session}: {WORD}: finished, {answers[0].tokens} ")
    assert (answers.warnings, answers.agreed) == ((), "")
    # The same session, frame by frame.
    async with TurboEnsemble(redis_url=redis.url) as ensemble:
        reading = ensemble.generate_ensemble("What is a list?", [WORD, f"b={CHAR}"], **options)
        frames = [frame async for frame in reading]
    assert ["".join(frame.members[index].text for frame in frames) for index in (0, 1)] == list(answers.texts.values())
    opening = await read_opening(pipe, await find_session(pipe, answers.session))
    assert (opening.sampling.seed, opening.sampling.max_tokens) == (7, 20)


async def test_an_ask_that_is_cancelled_cancels_its_session(redis: RedisServer, roles: Roles, pipe: AsyncPipe) -> None:
    roles.ready("aggregator")
    roles.ready("producers", WORD, "--tokens-per-s", "2")
    asking = asyncio.create_task(council.ask("What is a list?", WORD, redis_url=redis.url))
    (state,) = await until(lambda: list_sessions(pipe), "the session is open")
    asking.cancel()
    await asyncio.wait({asking})
    assert asking.cancelled()
    await until_ended(pipe, state.session)
    (last,) = decode_frame((await committed_frames(pipe, state.session))[-1][1]).members
    assert (last.state, last.reason) == ("dropped", "cancelled")


def test_answers_show_what_was_agreed_and_why_there_is_no_text() -> None:
    dropped = MemberAnswer("a", "m", "", "", "dropped", "its server is away", 0)
    answers = MemberAnswers("s", (dropped, MemberAnswer("b", "m", "Yes.", "", "finished", "stop", 2)))
    assert str(answers) == "a:\n(its server is away)\n\nb:\nYes."
    assert str(MemberAnswers("s", answers.members, agreed="Yes.")) == "Yes."
    with pytest.raises(KeyError, match="'c' is not a member of this session; members: a, b"):
        _ = answers["c"]
    with pytest.raises(IndexError):
        _ = answers[2]


WRONG: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((3,), {}, "prompt is 3: give the text that the council is to answer."),
    ((None,), {}, "prompt is None: give the text"),
    ((" ",), {}, "The prompt is empty"),
    (("x", []), {}, "models is empty: name at least one member, or leave models out."),
    (("x", ()), {}, "models is empty"),
    (("x", 3), {}, "models is 3: give a list of members, each a text or a MemberSpec."),
    (("x", {"a": 1}), {}, "models is {'a': 1}: give a list"),
    (("x", b"a"), {}, "models is b'a': give a list"),
    (("x", ["a", 3]), {}, "models[1] is 3: give a text or a MemberSpec."),
    (("x", [MemberSpec(3)]), {}, "models[0].model is 3: give a text."),  # type: ignore[arg-type]
    (("x", [MemberSpec("a", name=3)]), {}, "models[0].name is 3: give a text."),  # type: ignore[arg-type]
    (("x", [MemberSpec("a", seed=1.5)]), {}, "models[0].seed is 1.5: give a whole number."),  # type: ignore[arg-type]
    (("x", [MemberSpec("a", temperature="x")]), {}, "models[0].temperature is 'x': give a number."),  # type: ignore[arg-type]
    (("x", ["nowhere"]), {}, "There is no model 'nowhere' here"),
    (
        ("x", ["a", "b", "c"]),
        {},
        "models has 3 members, and the low tier runs 2 at once: name fewer, or",
    ),
    (("x",), {"weights": [1]}, "weights is [1]: give numbers by name, such as {'smollm2': 2}."),
    (("x",), {"weights": {"a": "2"}}, "weights['a'] is '2': give a number."),
    (("x",), {"weights": {"a": True}}, "weights['a'] is True: give a number."),
    (("x",), {"weights": {1: 2}}, "A name in weights is 1: give a text."),
    (("x",), {"temperature": "x"}, "temperature is 'x': give a number."),
    (("x",), {"temperature": float("nan")}, "temperature is nan: give a number from 0 to 2."),
    (("x",), {"temperature": 10**400}, "temperature is 10000000"),
    (("x",), {"weights": {"a": 10**400}}, "weights['a'] is 10000000"),
    (("x",), {"max_tokens": 1.5}, "max_tokens is 1.5: give a whole number."),
    (("x",), {"max_tokens": 0}, "max_tokens is 0: give a number from 1 to 8192."),
    (("x",), {"seed": "7"}, "seed is '7': give a whole number, or None."),
    (("x",), {"system": 3}, "system is 3: give a text."),
    (("x",), {"options": 3}, "options is 3: give each member's options by its name"),
    (("x",), {"options": {"a": 3}}, "options['a'] is 3: give numbers by name, such as {'seed': 7}."),
    (("x",), {"options": {"a": {"seed": "x"}}}, "options['a']['seed'] is 'x': give a number."),
    (("x",), {"history": "abc"}, "history is 'abc': give a list of Message."),
    (("x",), {"history": [{"role": "user"}]}, "history[0] is {'role': 'user'}: give a Message"),
    (("x",), {"history": [Message("robot", "x")]}, "history[0] is Message("),  # type: ignore[arg-type]
    (("x",), {"sync": 3}, "sync is 3: give a text."),
    (("x",), {"sync": "slow"}, "sync is 'slow': give step, free or consensus."),
    (("x",), {"allow_remote": 1}, "allow_remote is 1: give True or False."),
    (("x",), {"tier": 3}, "tier is 3: give low, mid, high or hybrid."),
    (("x",), {"tier": "top"}, "Unknown tier 'top'"),
    (("x",), {"redis_url": 3}, "redis_url is 3: give the address of a Redis."),
]


async def sentence_of(call: Awaitable[Any]) -> str:
    with pytest.raises(Refused) as refused:
        await call
    return str(refused.value)


async def test_an_argument_that_is_not_valid_is_refused_in_one_sentence(redis: RedisServer) -> None:
    offer_aggregator(redis)
    for model in ("a", "b", "c"):
        ScriptedProducer(redis, model).offer()
    for args, options, sentence in WRONG:
        found = await sentence_of(ask(*args, **{"redis_url": redis.url, "tier": "low"} | options))
        assert sentence in found, found
        assert found.endswith("."), found
    with pytest.raises(TypeError, match=r"^ask\(\) has no argument 'temprature'; its options are allow_remote, "):
        await ask("x", redis_url=redis.url, temprature=1)
    assert redis.run("EXISTS", keys.SESSIONS) == 0


async def test_a_wrong_call_is_refused_when_it_is_made(ensemble: Any) -> None:
    with pytest.raises(Refused, match="models is empty"):
        ensemble.generate_ensemble("x", [])
    assert await sentence_of(ensemble.open("x")) == "request is 'x': give a SessionRequest."
    assert "max_tokens is '9'" in await sentence_of(ensemble.open(SessionRequest("x", max_tokens="9")))  # type: ignore[arg-type]
    wrong: dict[str, Any] = {"prefix": 3, "mixture": "3", "parent": 3}
    for name, value in wrong.items():
        sentence = await sentence_of(ensemble.open(SessionRequest("x", **{name: value})))
        assert sentence.startswith(f"{name} is {value!r}: give "), sentence


async def test_a_wrong_cancel_is_refused_in_one_sentence(redis: RedisServer, ensemble: Any) -> None:
    offer_aggregator(redis)
    ScriptedProducer(redis, "a").offer()
    session: Any = await ensemble.open(SessionRequest("x", ("a",)))
    for args, sentence in [
        ((3,), "reason is 3: give one line of text."),
        (("no", ("a",)), "members is ('a',): give a list of indexes from 0 to 0."),
        (("no", (1,)), "members is (1,): give a list of indexes from 0 to 0."),
        (("no", 0), "members is 0: give a list of indexes from 0 to 0."),
    ]:
        assert await sentence_of(session.cancel(*args)) == sentence


async def test_a_wrong_what_if_is_refused_in_one_sentence(ensemble: Any) -> None:
    for args, options, sentence in [
        (("s", "x"), {"word": "1"}, "word is '1': give the number of a word, a whole number from 1."),
        (("s", "x"), {"at": 1.5}, "at is 1.5: give a byte of the answer, a whole number."),
        (("s", "x"), {"word": 1, "member": 1.5}, "member is 1.5: give a member's index or its name."),
        (("s", 3), {"word": 1}, "say is 3: give a text."),
        ((3, "x"), {"word": 1}, "session is 3: give a session's id as a text, or the path of a recording."),
        (("s", "x"), {"word": 1, "temperature": "x"}, "temperature is 'x': give a number."),
        (("s", "x"), {"word": 1, "models": []}, "models is empty: name at least one member, or leave models out."),
    ]:
        assert await sentence_of(ensemble.what_if(*args, **options)) == sentence
    with pytest.raises(TypeError, match=r"^what_if\(\) has no argument 'system'; its options are allow_remote, "):
        await ensemble.what_if("s", "x", word=1, system="y")


async def test_an_ensemble_is_used_inside_async_with(tmp_path: Path) -> None:
    """Outside, a private council would be started that nothing ends."""
    outside: Any = TurboEnsemble()
    calls = [
        outside.ask("x"),
        anext(outside.generate_ensemble("x")),
        outside.open(SessionRequest("x")),
        outside.what_if(tmp_path, "x", word=1),
        outside.meet_for_replay(),
    ]
    async with outside:
        pass
    for call in [*calls, outside.ask("x")]:
        assert await sentence_of(call) == (
            "The ensemble is not open: use it inside `async with TurboEnsemble() as ensemble:`."
        )
    assert not outside.is_private
