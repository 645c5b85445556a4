"""`council what-if` and the Python API end to end: branches of sessions and recordings, and their effects."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from council import MemberSpec, TurboEnsemble
from council.settings.schema import load_settings
from schemas.errors import Refused, SessionGone
from schemas.sessions import Member, Opening, Parent
from tests.support.council_command import COUNCIL, council, environment
from tests.support.project import ROOT
from tests.support.recording_files import record_stream
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.sessions import check_the_law, token_stream, written_texts
from tests.support.written_sessions import write_session
from transport.redis.connection import AsyncPipe
from transport.sessions import delete_session, find_session, read_opening

WORD, CHAR = "ngram:word-3", "ngram:char-6"
MEMBERS = (Member(WORD, name="words"), Member(CHAR, 2.0))
FIRST, SECOND = "The list is a sequence of objects.", " A list of objects."


@pytest.fixture
def models(roles: Roles) -> None:
    roles.ready("aggregator")
    for model in (WORD, CHAR):
        roles.ready("producers", model, "--tokens-per-s", "200")


async def parent_of(redis: RedisServer, pipe: AsyncPipe, **opening: Any) -> Opening:
    return await write_session(redis, pipe, FIRST, SECOND, members=MEMBERS, **opening)


def ensemble_at(redis: RedisServer) -> TurboEnsemble:
    return TurboEnsemble(settings=load_settings(None, {"redis_url": redis.url}))


@pytest.mark.usefixtures("models")
async def test_the_command_shows_the_branch_and_then_its_effect(redis: RedisServer, pipe: AsyncPipe) -> None:
    parent = await parent_of(redis, pipe)
    place = ["--word", "3", "--say", "was", "--member", "words"]
    outcome = council("what-if", parent.session, *place, "--max-tokens", "8", "--seed", "5", url=redis.url)
    assert outcome.code == 0, outcome.said
    *frames, summary, effect = outcome.lines
    assert frames[-1]["final"]
    frames_alone = await check_the_law(pipe, summary["session"])
    assert len(frames) == len(frames_alone)
    opening = await read_opening(pipe, await find_session(pipe, summary["session"]))
    assert (opening.prefix, opening.parent) == ("The list was", Parent(parent.session, 9, "was", "is"))
    assert (opening.members, opening.sampling.seed, opening.sampling.max_tokens) == (MEMBERS, 5, 8)
    # Each answer has the prefix once, and then what the member has written.
    written = await written_texts(pipe, summary["session"])
    assert all(written.values())
    assert [member["text"] for member in summary["members"]] == [f"The list was{written[index]}" for index in (0, 1)]
    assert (effect["session"], effect["parent"]["session"]) == (summary["session"], parent.session)
    found = {one["member"]: one for one in effect["effect"]}
    assert (list(found), found["words"]["byte"], found[CHAR]["byte"]) == (["words", CHAR], 9, 0)
    assert found["words"]["reach_bytes"] == len(summary["members"][0]["text"].rstrip().encode()) - 9


@pytest.mark.usefixtures("models")
async def test_a_session_of_python_has_branches_and_they_have_an_effect(redis: RedisServer, pipe: AsyncPipe) -> None:
    parent = await parent_of(redis, pipe)
    async with ensemble_at(redis) as ensemble:
        first = await ensemble.what_if(parent.session, " was", at=8, max_tokens=6, models=[MemberSpec(WORD, "words")])
        frames = [frame async for frame in first.frames()]
        text = "".join(frame.members[0].text for frame in frames)
        assert text.startswith("The list was")
        assert (first.opening.names, first.opening.members[0].weight) == (("words",), 1.0)
        effect = (await first.effect())["words"]
        assert effect.byte == 9
        # A branch of the branch, while that is open or after its end; its own answer is the parent's.
        second = await first.what_if("The", word=1, temperature=0.0)
        assert second.opening.parent == Parent(first.session, 0, "The", "The")
        assert second.opening.prefix == "The"
        await second.cancel()
        # What the branch began with is kept: the parent may go.
        await delete_session(pipe, parent.session)
        assert (await first.effect())["words"] == effect
        with pytest.raises(SessionGone):
            await ensemble.what_if(parent.session, "x", at=0)
        with pytest.raises(Refused, match="at is 9999"):
            await first.what_if("x", at=9999)


@pytest.mark.usefixtures("models")
async def test_a_recording_has_branches_by_its_file_and_by_its_name(
    redis: RedisServer, pipe: AsyncPipe, tmp_path: Path
) -> None:
    parent = await parent_of(redis, pipe, prompt="What is a list?")
    stream = await token_stream(pipe, parent.session)
    path = record_stream(tmp_path / f"2026_{parent.session}.mcap", stream)
    await delete_session(pipe, parent.session)
    for source in (str(path), parent.session):
        arguments = ["--word", "2", "--say", "set", "--max-tokens", "4", "--recordings", str(tmp_path)]
        outcome = council("what-if", source, *arguments, url=redis.url)
        assert outcome.code == 0, outcome.said
        *_, summary, effect = outcome.lines
        assert all(member["text"].startswith("The set") for member in summary["members"])
        assert effect["parent"] == {"session": parent.session, "byte": 4, "word": "set", "instead": "list"}
        assert [one["member"] for one in effect["effect"]] == ["words", CHAR]
    async with TurboEnsemble(redis_url=redis.url) as ensemble:
        for written in (path, str(path)):
            branch = await ensemble.what_if(written, "set", word=2, max_tokens=1)
            assert branch.opening.prefix == "The set"


@pytest.mark.usefixtures("models")
async def test_a_reader_that_closes_its_end_ends_the_command_quietly(redis: RedisServer, pipe: AsyncPipe) -> None:
    parent = await parent_of(redis, pipe)
    command = shlex.join([*COUNCIL, "what-if", parent.session, "--word", "1", "--say", "My"])
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-o", "pipefail", "-c", f"{command} | head -n 1"],
        env=environment(redis.url), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")


async def test_what_cannot_be_a_branch_is_refused_in_one_sentence(redis: RedisServer, pipe: AsyncPipe) -> None:
    parent = await parent_of(redis, pipe)
    for arguments, sentence in (
        ([parent.session, "--at", "99", "--say", "x"], "at is 99, and the longest answer ('words') has 34 bytes"),
        ([parent.session, "--at", "1", "--say", "x", "--member", "me"], "'me' is not a member of this session"),
        (["nowhere.mcap", "--at", "1", "--say", "x"], "nowhere.mcap cannot be read"),
    ):
        council("what-if", *arguments, url=redis.url).assert_refused(sentence)
    outcome = council("what-if", "nowhere", "--at", "1", "--say", "x", url=redis.url)
    assert (outcome.code, outcome.out) == (1, "")
    outcome.assert_said("There is no session 'nowhere' here")


@pytest.mark.usefixtures("models")
async def test_a_consensus_of_a_branch_is_text_alone_and_its_effect_on_standard_error(
    redis: RedisServer, pipe: AsyncPipe
) -> None:
    parent = await parent_of(redis, pipe)
    arguments = ["--word", "3", "--say", "was", "--sync", "consensus", "--max-tokens", "6"]
    outcome = council("what-if", parent.session, *arguments, url=redis.url)
    assert outcome.code == 0, outcome.said
    assert outcome.out.startswith("The list was")
    assert outcome.out.count("The list was") == 1
    assert "together again" not in outcome.out
    outcome.assert_said("together again", "byte 9")
