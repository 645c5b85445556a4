"""`council ask --json` end to end: real processes, real Redis, real llama.cpp servers beside n-gram members."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.gguf_model import gguf_model
from bench.llama_server import llama_server
from council import TurboEnsemble
from council.settings.schema import load_settings
from tests.support.council_command import COUNCIL, Outcome, council, environment
from tests.support.faulty_server import faulty_server
from tests.support.llama import skip_without_llama
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles, roles_on
from tests.support.session_folder import session_folder
from tests.support.sessions import check_the_law, token_stream, written_texts
from tests.support.waiting import until, wait_until
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import find_session, list_sessions, read_opening


@pytest.fixture(scope="module")
def llama_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    skip_without_llama()
    with llama_server(gguf_model(session_folder(tmp_path_factory))) as url:
        yield url


def _checked(outcome: Outcome) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(frames, summary) of a session that ended: consecutive windows to the final frame, every token once."""
    *frames, summary = outcome.lines
    assert [frame["window_index"] for frame in frames] == list(range(len(frames)))
    assert [frame["final"] for frame in frames] == [False] * (len(frames) - 1) + [True]
    counts = {"session", "frames", "duration_s", "late", "sync", "mode", "tier", "fell_from", "members"}
    largest = {"largest_sync_lag_ms", "largest_arrival_skew_ms"}
    assert set(summary) == counts | largest | {"diverged_at_bytes", "resonance_ms", "superseded", "agreed", "partings"}
    assert summary["frames"] == len(frames)
    parted = [frame["diverged_at_bytes"] for frame in frames if frame["diverged_at_bytes"] is not None]
    assert summary["diverged_at_bytes"] == (parted[-1] if parted else None)
    for name in ("sync_lag_ms", "arrival_skew_ms"):
        values = [frame[name] for frame in frames if frame[name] is not None]
        assert summary[f"largest_{name}"] == (max(values) if values else None)
    assert summary["resonance_ms"] == round(sum(frame["resonance"] for frame in frames) * 1000 / 60)
    for index, member in enumerate(summary["members"]):
        tokens = [token for frame in frames for token in frame["tokens"] if token["member"] == index]
        assert [token["seq"] for token in tokens] == list(range(member["tokens"]))
        assert member["text"] == "".join(frame["members"][index]["text"] for frame in frames)
        ends = [token["end"] for token in tokens if token["lane"] == "answer"]
        assert (ends[-1] if ends else 0) == len(member["text"].lstrip(" \t\n\r\v\f").encode())
    return frames, summary


async def test_a_council_of_real_servers_and_ngram_models_answers(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe, llama_url: str
) -> None:
    """Three members, one of them on a real llama.cpp server over HTTP."""
    roles.ready("aggregator")
    roles.ready("producers", "tiny", "--backend", llama_url)
    roles.ready("producers", "ngram:word-3", "--tokens-per-s", "60")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "60")
    arguments = ["--models", "ngram:word-3,ngram:char-6,tiny", "--max-tokens", "60", "--seed", "3", "--json"]
    outcome = council("ask", "Tell me about lists", *arguments, "--weights", "tiny=2", url=redis.url)
    assert outcome.code == 0, outcome.said
    frames, summary = _checked(outcome)
    assert (summary["sync"], summary["mode"]) == ("step", "step")
    assert [member["state"] for member in summary["members"]] == ["finished"] * 3
    written = await written_texts(pipe, summary["session"])
    assert [member["text"] for member in summary["members"]] == [written[i] for i in range(3)]
    assert all(written.values())
    # Every producer here measures: the diversity index comes from logprobs once the members are aligned.
    assert any(frame["di_source"] == "logprobs" and frame["diversity_index"] > 0 for frame in frames)
    assert all(token["quality"] == "real" for frame in frames for token in frame["tokens"])
    assert max(frame["energy"] for frame in frames) > 0.2
    assert await check_the_law(pipe, summary["session"])


async def test_one_member_alone_is_single(redis: RedisServer, roles: Roles) -> None:
    roles.ready("aggregator")
    roles.ready("producers", "ngram:bpe-3", "--tokens-per-s", "100")
    outcome = council("ask", "hi", "--models", "ngram:bpe-3", "--max-tokens", "20", url=redis.url)
    assert outcome.code == 0, outcome.said
    frames, summary = _checked(outcome)
    assert summary["mode"] == "single"
    assert {frame["mode"] for frame in frames} == {"single"}


async def test_the_weighting_of_the_command_line_and_of_python_is_in_the_opening(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    roles.ready("aggregator")
    roles.ready("producers", "ngram:bpe-3", "--tokens-per-s", "100")
    outcome = council("ask", "hi", "--weighting", "certainty", "--max-tokens", "5", url=redis.url)
    assert outcome.code == 0, outcome.said
    sessions = [_checked(outcome)[1]["session"]]
    async with TurboEnsemble(settings=load_settings(None, {"redis_url": redis.url})) as ensemble:
        frames = [frame async for frame in ensemble.generate_ensemble("hi", max_tokens=5, weighting="certainty")]
    sessions.append(frames[-1].session)
    for session in sessions:
        assert (await read_opening(pipe, await find_session(pipe, session))).weighting == "certainty"


async def test_the_sync_of_the_command_line_and_of_python_is_in_the_opening(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    roles.ready("aggregator")
    for model in ("ngram:bpe-3", "ngram:char-6"):
        roles.ready("producers", model, "--tokens-per-s", "100")
    outcome = council("ask", "hi", "--sync", "free", "--max-tokens", "5", url=redis.url)
    assert outcome.code == 0, outcome.said
    frames, summary = _checked(outcome)
    assert (summary["sync"], summary["mode"]) == ("free", "free")
    assert not any(member["buffered_tokens"] for frame in frames for member in frame["members"])
    async with TurboEnsemble(settings=load_settings(None, {"redis_url": redis.url})) as ensemble:
        last = [frame async for frame in ensemble.generate_ensemble("hi", max_tokens=5, sync="free")][-1]
    for session in (summary["session"], last.session):
        assert (await read_opening(pipe, await find_session(pipe, session))).sync == "free"


async def test_the_tier_caps_the_members_and_names_the_others(redis: RedisServer, roles: Roles) -> None:
    roles.ready("aggregator")
    for model in ("ngram:word-3", "ngram:char-6", "ngram:bpe-3"):
        roles.ready("producers", model, "--tokens-per-s", "100")
    names = "ngram:word-3,ngram:char-6,ngram:bpe-3"
    outcome = council("ask", "hi", "--models", names, "--tier", "low", "--max-tokens", "10", url=redis.url)
    assert outcome.code == 0
    outcome.assert_said("low tier", "left out: ngram:bpe-3")
    assert [member["model"] for member in _checked(outcome)[1]["members"]] == ["ngram:word-3", "ngram:char-6"]


BROKEN = {
    "not_found": "404",
    "broken": "500",
    "html": "HTML",
    "half_a_line": "",
    "nothing": "without an answer",
    "unfinished": "before the answer was complete",
    "error_object": "out of memory",
}


async def test_a_member_whose_server_fails_drops_with_its_reason(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    """404, 500, HTML, half a line, nothing, an end without done, an error in the stream: the others continue."""
    async with faulty_server() as server:
        roles.ready("aggregator")
        roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
        for model in BROKEN:
            roles.start("producers", model, "--backend", server.url)

        async def all_ready() -> bool:
            records = await list_processes(pipe)
            return sum(record.ready for record in records if record.role == "producer") == len(BROKEN) + 1

        await until(all_ready, "all producers are ready")
        groups = [list(BROKEN)[:5], list(BROKEN)[5:]]
        for group in groups:
            outcome = await _ask(redis.url, ["ngram:char-6", *group])
            assert outcome.code == 0, outcome.said
            *_, summary = outcome.lines
            good, *bad = summary["members"]
            assert good["state"] == "finished"
            for member in bad:
                assert member["state"] == "dropped"
                assert BROKEN[member["model"]] in member["reason"], member
                assert member["reason"]
        outcome = await _ask(redis.url, ["not_found", "html"])
        assert outcome.code == 1
        assert [member["state"] for member in outcome.lines[-1]["members"]] == ["dropped", "dropped"]
        states = {state.session: state for state in await list_sessions(pipe)}
        assert "not_found" in states[outcome.lines[-1]["session"]].reason


async def _ask(url: str, models: list[str], **variables: str) -> Outcome:
    arguments = ["--models", ",".join(models), "--max-tokens", "20", "--tier", "high"]
    return await asyncio.to_thread(council, "ask", "hi", *arguments, url=url, **variables)


async def test_a_model_that_never_answers_drops_after_the_first_token_time_out(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    async with faulty_server() as server:
        roles.ready("aggregator")
        roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
        roles.ready("producers", "never", "--backend", server.url)
        limits = '{"first_token_ms": 700}'
        outcome = await _ask(redis.url, ["ngram:char-6", "never"], COUNCIL_LIMITS=limits)
    assert outcome.code == 0, outcome.said
    assert outcome.lines[-1]["members"][1]["reason"] == "no first token within 0.7 s (limits.first_token_ms)"


async def test_a_model_without_a_producer_drops(redis: RedisServer, roles: Roles) -> None:
    roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
    outcome = await _ask(redis.url, ["ngram:char-6", "ngram:bpe-2"], COUNCIL_LIMITS='{"beats_without_claim": 2}')
    assert outcome.code == 0, outcome.said
    assert outcome.lines[-1]["members"][1]["reason"] == "nobody serves it"


async def test_a_producer_that_is_killed_drops_its_member(redis: RedisServer, roles: Roles, pipe: AsyncPipe) -> None:
    roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "15")
    victim = roles.ready("producers", "ngram:word-3", "--tokens-per-s", "10")
    asking = subprocess.Popen(
        [*COUNCIL, "ask", "hi", "--models", "ngram:char-6,ngram:word-3", "--max-tokens", "250", "--seed", "7"],
        env=environment(redis.url), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    async def has_begun() -> bool:
        return any(state.progress and state.progress[1].next_seq > 2 for state in await list_sessions(pipe))

    await until(has_begun, "the second member has written text")
    victim.kill()
    out, _ = asking.communicate(timeout=60)
    *frames, summary = [json.loads(line) for line in out.splitlines()]
    assert asking.returncode == 0
    assert summary["members"][1]["reason"] == "producer gone"
    assert summary["members"][1]["text"] == (await written_texts(pipe, summary["session"]))[1]
    dropped = next(frame for frame in frames if frame["members"][1]["state"] == "dropped")
    assert not dropped["final"]
    await check_the_law(pipe, summary["session"])


async def test_without_an_aggregator_the_command_fails_at_once(redis: RedisServer, roles: Roles) -> None:
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
    outcome = await _ask(redis.url, ["ngram:char-6"])
    assert (outcome.code, outcome.out) == (1, "")
    outcome.assert_said("No aggregator", "council up")


async def test_a_stall_of_redis_does_not_count_as_silence_of_the_aggregator(own_redis: RedisServer) -> None:
    """Redis is stopped for longer than the time-out for the aggregator: the session continues, exit 0."""
    with roles_on(own_redis.url) as roles:
        roles.ready("aggregator")
        roles.ready("producers", "ngram:char-6", "--tokens-per-s", "20")
        asking = subprocess.Popen(
            [*COUNCIL, "ask", "hi", "--models", "ngram:char-6", "--max-tokens", "60"],
            env=environment(own_redis.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert asking.stdout is not None
        asking.stdout.readline()
        own_redis.process.send_signal(signal.SIGSTOP)
        stalled_until = time.monotonic() + 6.5
        wait_until(lambda: time.monotonic() > stalled_until, "Redis was away for longer than five seconds")
        own_redis.process.send_signal(signal.SIGCONT)
        out, err = asking.communicate(timeout=60)
        assert (asking.returncode, err) == (0, "")
        assert json.loads(out.splitlines()[-1])["members"][0]["state"] == "finished"


async def test_ctrl_c_works_while_redis_does_not_answer(own_redis: RedisServer) -> None:
    with roles_on(own_redis.url) as roles:
        roles.ready("aggregator")
        roles.ready("producers", "ngram:char-6", "--tokens-per-s", "20")
        asking = subprocess.Popen(
            [*COUNCIL, "ask", "hi", "--models", "ngram:char-6"],
            env=environment(own_redis.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert asking.stdout is not None
        asking.stdout.readline()
        own_redis.process.send_signal(signal.SIGSTOP)
        asking.send_signal(signal.SIGINT)
        out, err = asking.communicate(timeout=8)
        own_redis.process.send_signal(signal.SIGCONT)
        assert (asking.returncode, err) == (130, "")
        assert json.loads(out.splitlines()[-1])["members"][0]["model"] == "ngram:char-6"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_cancels_the_session_and_not_the_council(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe, number: signal.Signals
) -> None:
    aggregator = roles.ready("aggregator")
    producer = roles.ready("producers", "ngram:char-6", "--tokens-per-s", "10")
    asking = subprocess.Popen(
        [*COUNCIL, "ask", "hi", "--models", "ngram:char-6", "--max-tokens", "500"],
        env=environment(redis.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    async def has_begun() -> bool:
        return any(state.progress and state.progress[0].next_seq > 2 for state in await list_sessions(pipe))

    await until(has_begun, "the member has said something")
    asking.send_signal(number)
    out, err = asking.communicate(timeout=10)
    assert asking.returncode == 130
    assert "Traceback" not in err
    summary = json.loads(out.splitlines()[-1])
    assert (summary["members"][0]["state"], summary["members"][0]["reason"]) == ("dropped", "cancelled")
    assert aggregator.process.poll() is None
    assert producer.process.poll() is None
    # The producer has stopped generating: nothing more is written.
    length = len(await token_stream(pipe, summary["session"]))
    outcome = await _ask(redis.url, ["ngram:char-6"])
    assert outcome.code == 0
    assert len(await token_stream(pipe, summary["session"])) <= length + 1


async def test_a_reader_that_closes_the_pipe_cancels_the_session(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "10")
    asking = subprocess.Popen(
        [*COUNCIL, "ask", "hi", "--models", "ngram:char-6"],
        env=environment(redis.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert asking.stdout is not None
    assert asking.stdout.readline().startswith(b'{"session"')
    asking.stdout.close()
    assert asking.stderr is not None
    err = asking.stderr.read().decode()
    assert asking.wait(10) == 0
    assert err == ""
    (state,) = await list_sessions(pipe)

    async def is_over() -> bool:
        return (await list_sessions(pipe))[0].status == "ended"

    await until(is_over, f"session {state.session} ends")


def test_a_private_council_answers_and_leaves_no_file(tmp_path: Path) -> None:
    """No council runs and no Redis is named: a council is started for the call, and ends with it."""
    variables = {"TMPDIR": str(tmp_path), "COUNCIL_NGRAM_TOKENS_PER_S": "200"}
    outcome = council(
        "ask", "What is a list?", "--models", "ngram:word-3,ngram:char-6", "--max-tokens", "20", **variables
    )
    assert outcome.code == 0, outcome.said
    for member in _checked(outcome)[1]["members"]:
        # A model may end its answer by itself before it must.
        assert member["state"] == "finished"
        assert (member["tokens"], member["reason"]) == (20, "length") or (
            member["tokens"] < 20 and member["reason"] == "stop"
        )
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_answers(tmp_path: Path) -> None:
    variables = {"TMPDIR": str(tmp_path), "COUNCIL_NGRAM_TOKENS_PER_S": "200"}
    texts = []
    for _ in range(2):
        outcome = council(
            "ask", "-", "--models", "ngram:word-3", "--max-tokens", "15", "--seed", "5", stdin="lists", **variables
        )
        texts.append(outcome.lines[-1]["members"][0]["text"])
    assert texts[0] == texts[1] != ""


def test_a_killed_ask_leaves_no_private_council(tmp_path: Path) -> None:
    asking = subprocess.Popen(
        [*COUNCIL, "ask", "hi", "--models", "ngram:char-6"],
        env=environment(TMPDIR=str(tmp_path)), stdout=subprocess.PIPE,
    )  # fmt: skip
    assert asking.stdout is not None
    asking.stdout.readline()
    asking.kill()
    asking.wait()
    asking.stdout.close()
    wait_until(lambda: not list(tmp_path.iterdir()), "the private folder is gone", 10)
