"""A council of a real model, as a new user starts it: real processes from the command to the frames."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.gguf_model import gguf_model
from bench.llama_server import llama_server
from council import TurboEnsemble
from council.settings.schema import load_settings
from schemas.frames import Frame
from schemas.sessions import MemberSpec, SessionRequest
from tests.support.council_command import council
from tests.support.role_processes import Roles
from tests.support.sessions import check_each_token_in_one_frame, check_the_law, opening_of, until_ended
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]

QUESTION = "What is the capital of France?"
SYSTEM = "Answer in one short English sentence."


@pytest.fixture
def cache(smollm2: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a machine whose user has fetched the model."""
    folder = tmp_path / "cache" / "council" / "models"
    folder.mkdir(parents=True)
    os.link(smollm2, folder / smollm2.name)
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def texts_of(frames: list[dict[str, Any]]) -> list[str]:
    return ["".join(frame["members"][index]["text"] for frame in frames) for index in range(len(frames[0]["members"]))]


def first_text(frames: list[Frame]) -> int:
    """The first window that shows text."""
    return next(frame.window_index for frame in frames if any(member.text for member in frame.members))


def test_without_model_servers_three_members_of_the_model_in_the_box_answer(
    cache: dict[str, str], tmp_path: Path
) -> None:
    """Loaded once, by one process; compared from their first byte; their texts are equal until they part."""
    outcome = council(
        "ask", QUESTION, "--system", SYSTEM, "--max-tokens", "24", "--seed", "5", "--json", cwd=tmp_path, **cache
    )
    assert outcome.code == 0, outcome.said
    *frames, summary = outcome.lines
    names = [member["name"] for member in summary["members"]]
    assert names == ["smollm2-cold", "smollm2-warm", "smollm2-hot"]
    assert {member["model"] for member in summary["members"]} == {"smollm2"}
    assert all("Paris" in member["text"] for member in summary["members"][:2]), summary
    compared = [frame for frame in frames if frame["frontier_bytes"] is not None]
    assert (compared[0]["mode"], compared[0]["di_source"]) == ("step", "logprobs")
    assert compared[0]["window_index"] == next(
        f["window_index"] for f in frames if any(m["text"] for m in f["members"])
    )
    assert summary["largest_sync_lag_ms"] == 0.0
    answers = [text.strip().encode() for text in texts_of(frames)]
    parted_at = [frame["diverged_at_bytes"] for frame in compared if frame["diverged_at_bytes"] is not None]
    same = next((at for at, bytes_at in enumerate(zip(*answers, strict=False)) if len({*bytes_at}) > 1), None)
    assert parted_at[:1] == ([] if same is None else [same])


def test_without_the_model_the_message_tells_how_to_get_it(tmp_path: Path) -> None:
    outcome = council("ask", QUESTION, "--max-tokens", "3", "--json", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert outcome.code == 0
    assert "the n-gram council, a demonstration, answers" in outcome.said
    assert "council models get smollm2" in outcome.said
    refused = council("ask", QUESTION, "--models", "smollm2", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    refused.assert_refused("There is no model 'smollm2' here", "council models get smollm2")


async def test_a_private_council_with_two_cold_files_compares_them_from_byte_0(smollm2: Path, tmp_path: Path) -> None:
    """No text is shown before both are loaded, and both begin at the same time."""
    other = Path(shutil.copy(smollm2, tmp_path / "copy.gguf"))
    models = (f"one=gguf:{smollm2}:temperature=0", f"other=gguf:{other}:temperature=0.8,seed=3")
    async with TurboEnsemble(tier="mid", settings=load_settings(None, {})) as ensemble:
        frames = [frame async for frame in ensemble.generate_ensemble(QUESTION, models, max_tokens=16)]
    begins = first_text(frames)
    assert any(member.awaited for frame in frames[:begins] for member in frame.members)
    assert all(not member.position_bytes for frame in frames[:begins] for member in frame.members)
    assert not any(member.awaited for frame in frames[begins:] for member in frame.members)
    compared = [frame for frame in frames if frame.alignment.frontier_bytes is not None]
    assert compared[0].window_index == begins
    # In the first token of one of the members.
    assert any(token.start == compared[0].alignment.frontier_bytes for token in compared[0].tokens)
    assert all(frame.alignment.sync_lag_ms in (None, 0.0) for frame in frames if frame.mode == "step")
    assert [member.state for member in frames[-1].members] == ["finished", "finished"]


async def test_a_file_and_the_same_model_over_http_keep_in_step_with_equal_texts(
    roles: Roles, pipe: AsyncPipe, smollm2: Path
) -> None:
    """At temperature 0 they never part: one pauses at its grants, the other's text is released later."""
    with llama_server(smollm2) as url:
        roles.ready("aggregator")
        roles.ready("producers", "file", "--path", str(smollm2), "--warm")
        roles.ready("producers", "served", "--backend", url, "--name", "any")
        opening = opening_of("file", "served", max_tokens=24, prompt=QUESTION)
        sampling = msgspec.structs.replace(opening.sampling, temperature=0.0)
        opening = msgspec.structs.replace(opening, sampling=sampling, system=SYSTEM)
        await open_session(pipe, opening)
        await until_ended(pipe, opening.session)
    frames = await check_each_token_in_one_frame(pipe, opening.session)
    one, other = ("".join(frame.members[index].text for frame in frames) for index in (0, 1))
    assert one == other
    assert "Paris" in one
    assert all(frame.alignment.diverged_at_bytes is None for frame in frames)
    assert max(frame.measures.agreement or 0.0 for frame in frames) > 0.99


async def test_two_sessions_of_three_members_each_share_one_loaded_model(
    roles: Roles, pipe: AsyncPipe, smollm2: Path
) -> None:
    """Three slots for six members: those of the later session wait, and are then answered."""
    roles.ready("aggregator")
    roles.ready("producers", "box", "--path", str(smollm2), "--parallel", "3", "--warm")
    usual = opening_of("box", "box", "box", max_tokens=12, prompt=QUESTION)
    named = tuple(msgspec.structs.replace(member, name=name) for member, name in zip(usual.members, "abc", strict=True))
    openings = [msgspec.structs.replace(usual, session=opening_of("box").session, members=named) for _ in range(2)]
    for opening in openings:
        await open_session(pipe, opening)
    await asyncio.gather(*(until_ended(pipe, opening.session) for opening in openings))
    for opening in openings:
        frames = await check_the_law(pipe, opening.session)
        assert [member.state for member in frames[-1].members] == ["finished"] * 3
        assert all("".join(frame.members[index].text for frame in frames) for index in range(3))


async def test_a_member_with_its_own_system_text_answers_differently(smollm2: Path) -> None:
    async with TurboEnsemble(tier="mid", settings=load_settings(None, {})) as ensemble:
        path = f"gguf:{smollm2}"
        request = SessionRequest(
            "Name an animal.",
            (
                MemberSpec(path, "plain", temperature=0.0),
                MemberSpec(path, "pirate", temperature=0.0, system="You are a pirate. Always begin with: Arrr!"),
            ),
            max_tokens=16,
        )
        session = await ensemble.open(request)
        assert session.warnings == ()
        frames = [frame async for frame in session.frames()]
    plain, pirate = ("".join(frame.members[index].text for frame in frames) for index in (0, 1))
    assert plain
    assert pirate
    assert plain != pirate


def test_a_toy_and_a_real_model_with_different_tokenizers_are_compared(smollm2: Path, tmp_path: Path) -> None:
    toy = gguf_model(tmp_path)
    outcome = council(
        "ask", QUESTION, "--models", f"toy=gguf:{toy},real=gguf:{smollm2}", "--max-tokens", "12", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    *frames, summary = outcome.lines
    assert [member["state"] for member in summary["members"]] == ["finished"] * 2
    assert any(frame["di_source"] == "logprobs" for frame in frames)


async def test_a_private_council_answers_the_next_question(
    cache: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows its members by name: a question that names one of them does not start another council."""
    monkeypatch.setenv("XDG_CACHE_HOME", cache["XDG_CACHE_HOME"])
    async with TurboEnsemble(tier="mid", settings=load_settings(None, {})) as ensemble:
        running = ensemble.generate_ensemble(QUESTION, ["smollm2-cold"], max_tokens=200)
        first = await anext(running)
        others = [
            frame async for frame in ensemble.generate_ensemble(QUESTION, ["smollm2-hot", "smollm2-warm"], max_tokens=5)
        ]
        # The member would have ended with the first council.
        rest = [frame async for frame in running]
    assert [member.name for member in others[-1].members] == ["smollm2-hot", "smollm2-warm"]
    assert (first.members[0].name, rest[-1].final) == ("smollm2-cold", True)
