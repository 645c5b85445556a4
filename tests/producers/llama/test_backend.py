"""llama.cpp as a backend, with real models: in stretches of some tokens it sends what its server sends over HTTP."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from bench.gguf_model import gguf_model
from bench.llama_server import llama_server
from producers.backend import (
    BackendFailed,
    Chunk,
    Ending,
    ModelLoading,
    ModelWaiting,
    OutOfMemory,
    Piece,
    Request,
    stretches_of,
)
from producers.llama.backend import LlamaBackend
from producers.llama.child import LlamaChild
from producers.llama.stretch import STRETCH_TOKENS
from producers.servers.thinking import ThinkingSplitter
from producers.source import gguf_source
from schemas.errors import Refused
from schemas.sessions import Message
from tests.support.llama import needs_llama
from tests.support.session_folder import session_folder
from tests.support.waiting import until, wait_until

# Far more than any step takes; a bound for steps that would never end.
QUICKLY_S = 60.0
# Models of different sizes and tokenizers: of words, of sentence pieces, of Hangul in parts of characters.
MODELS = {
    "words": {"vocab": 640, "dim": 160, "attends": True},
    "pieces": {"vocab": 560, "dim": 128, "seed": 3, "kind": "sentence_pieces", "attends": True},
    "hangul": {"vocab": 320, "dim": 312, "hangul": True},
}
THINKERS = {name: {"vocab": 328, "dim": 320, "thinks": name} for name in ("by_itself", "by_template")}


def asked(**changed: object) -> Request:
    request = Request(
        prompt="How are names resolved?",
        system="You explain Python.",
        max_tokens=40,
        temperature=0.7,
        seed=7,
        top_k=20,
        silence_ms=30_000,
    )
    return msgspec.structs.replace(request, **changed)


pytestmark = needs_llama


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return session_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def tiny(folder: Path) -> Path:
    return gguf_model(folder)


@contextlib.asynccontextmanager
async def backend_of(path: Path, parallel: int = 0) -> AsyncIterator[LlamaBackend]:
    """A backend that is not loaded, within a time limit; it is closed at the end, and nothing is left of it."""
    backend = LlamaBackend(*gguf_source(path, parallel))
    folder = ""
    try:
        async with asyncio.timeout(QUICKLY_S):
            await backend.start()
            yield backend
            folder = os.path.dirname(backend.child.socket) if backend.child else ""
    finally:
        await backend.close()
        assert not folder or not _exists(folder)
        assert backend.child is None


@pytest.fixture
async def backend(tiny: Path) -> AsyncIterator[LlamaBackend]:
    async with backend_of(tiny) as backend:
        await backend.load()
        yield backend


async def answer_of(backend: LlamaBackend, request: Request) -> tuple[list[Piece], str]:
    """(the pieces, how it ended) of a whole answer with one chunk for each token."""
    *chunks, ending = [item async for item in backend.generate(request) if not isinstance(item, ModelLoading)]
    assert isinstance(ending, Ending)
    assert all(isinstance(chunk, Chunk) and chunk.pieces for chunk in chunks)
    return [piece for chunk in chunks for piece in chunk.pieces], ending.reason


async def text_of(backend: LlamaBackend, request: Request) -> str:
    return "".join(piece.text for piece in (await answer_of(backend, request))[0])


async def failure_of(backend: LlamaBackend, request: Request) -> str:
    with pytest.raises(BackendFailed) as failed:
        await answer_of(backend, request)
    assert "\n" not in str(failed.value)
    return str(failed.value)


def child_of(backend: LlamaBackend) -> LlamaChild:
    assert backend.child
    return backend.child


async def decodes(backend: LlamaBackend) -> int:
    """How many decodes llama.cpp has computed."""
    return await metric(backend, "n_decode_total")


async def metric(backend: LlamaBackend, name: str) -> int:
    lines = (await child_of(backend).ask("/metrics")).decode().splitlines()
    return int(next(line for line in lines if line.startswith(f"llamacpp:{name} ")).split()[1])


async def is_idle(backend: LlamaBackend) -> bool:
    return not any(slot["is_processing"] for slot in msgspec.json.decode(await child_of(backend).ask("/slots")))


async def first_token(backend: LlamaBackend, request: Request) -> AsyncIterator[object]:
    """The answer after its first token."""
    items = backend.generate(request)
    assert isinstance(await anext(items), Chunk)
    return items


def _exists(path: str) -> bool:
    return os.path.exists(path)


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def pid_of(child: LlamaChild) -> int:
    """The process that listens to the socket."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if child.socket.encode() in path.read_bytes():
                return int(path.parent.name)
    raise AssertionError("There is no such process.")


# What it generates


@pytest.mark.parametrize("name", MODELS)
async def test_the_answer_is_the_one_that_the_server_sends_over_http(name: str, folder: Path) -> None:
    """The likeliest answer to a chat of several turns: text, bytes, logprobs and alternatives.

    Over HTTP the first token of a character of several tokens is missing; here no token is.
    """
    path = gguf_model(folder, **MODELS[name])  # type: ignore[arg-type]
    history = (Message("user", "What is x?"), Message("assistant", "한글 and a name."))
    request = asked(temperature=0.0, top_k=5, history=history, max_tokens=60)
    async with backend_of(path) as backend:
        pieces, reason = await answer_of(backend, request)
    with llama_server(path) as url:
        body = {
            "messages": [{"role": turn.role, "content": turn.content} for turn in request.messages],
            "max_tokens": 60,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": 5,
        }
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=QUICKLY_S) as client:
            answer = (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()["choices"][0]
    assert ("".join(piece.text for piece in pieces), reason) == (answer["message"]["content"], answer["finish_reason"])
    assert {piece.quality for piece in pieces} == {"real"}
    shown = [piece for piece in pieces if piece.text]
    for piece, entry in zip(shown, answer["logprobs"]["content"], strict=True):
        assert piece.text.encode() == bytes(entry["bytes"])
        assert piece.logprob == pytest.approx(entry["logprob"], abs=1e-3)
        assert [listed for listed, _ in piece.top] == [bytes(listed["bytes"]) for listed in entry["top_logprobs"]]
        assert [logprob for _, logprob in piece.top] == pytest.approx(
            [listed["logprob"] for listed in entry["top_logprobs"]], abs=1e-3
        )


async def test_logprobs_are_those_before_sampling(backend: LlamaBackend) -> None:
    """At every temperature, as with every other server."""
    tops = {(await answer_of(backend, asked(temperature=t, max_tokens=1)))[0][0].top for t in (0.0, 0.7, 2.0)}
    assert len(tops) == 1
    assert len(tops.pop()) == 20


async def test_characters_of_several_tokens_are_whole_and_each_token_is_measured(folder: Path) -> None:
    path = gguf_model(folder, **MODELS["hangul"])  # type: ignore[arg-type]
    async with backend_of(path) as backend:
        pieces, _ = await answer_of(backend, asked(max_tokens=150))
    text = "".join(piece.text for piece in pieces)
    raw = b"".join(piece.piece or piece.text.encode() for piece in pieces)
    assert codecs.getincrementaldecoder("utf-8")("replace").decode(raw) == text
    assert any("가" <= letter <= "힣" for letter in text)
    assert any(piece.text == "" for piece in pieces)
    assert {piece.quality for piece in pieces} == {"real"}
    assert all(0.0 >= (piece.logprob or 0.0) > -20.0 for piece in pieces)


async def test_without_alternatives_the_token_itself_is_measured(backend: LlamaBackend) -> None:
    pieces, _ = await answer_of(backend, asked(top_k=0, max_tokens=3))
    assert [(piece.quality, piece.top) for piece in pieces] == [("real", ())] * 3


async def test_an_answer_ends_at_its_bound_or_by_itself(backend: LlamaBackend) -> None:
    pieces, reason = await answer_of(backend, asked(max_tokens=5))
    assert (len(pieces), reason) == (5, "length")
    for seed in range(60):
        pieces, reason = await answer_of(backend, asked(max_tokens=300, seed=seed))
        assert reason == ("length" if len(pieces) == 300 else "stop")
        if reason == "stop":
            break
    assert reason == "stop"


async def test_an_answer_ends_with_its_context_and_a_prompt_must_fit(folder: Path) -> None:
    async with backend_of(gguf_model(folder, vocab=300, dim=64, context=512)) as backend:
        pieces, reason = await answer_of(backend, asked(prompt="a " * 150, max_tokens=8_192, temperature=0.0))
        assert reason == "length"
        assert 0 < len(pieces) < 512
        message = await failure_of(backend, asked(prompt="a " * 512, max_tokens=8_192))
        assert re.fullmatch(r"gguf:\S+ has a context of 512 tokens, and the prompt has \d+: shorten it", message)


# Randomness


async def test_the_seed_decides_the_text(backend: LlamaBackend) -> None:
    first, again, other = [await text_of(backend, asked(seed=seed)) for seed in (7, 7, 8)]
    assert first == again != other


async def test_without_a_seed_the_answer_is_random(backend: LlamaBackend) -> None:
    first, again = [await text_of(backend, asked(seed=None, temperature=1.5)) for _ in range(2)]
    assert first != again


async def test_an_answer_depends_on_its_own_chat_alone(folder: Path) -> None:
    """Not on the answers before it in its slot, and not on those computed beside it."""
    async with backend_of(gguf_model(folder, **MODELS["words"])) as backend:  # type: ignore[arg-type]
        alone = [await text_of(backend, asked(prompt=prompt)) for prompt in ("One", "Two", "One")]
        beside = await asyncio.gather(*(text_of(backend, asked(prompt=prompt)) for prompt in ("One", "Two")))
    assert alone[0] == alone[2] == beside[0]
    assert alone[1] == beside[1] != alone[0]


# Pausing


async def test_no_more_than_a_stretch_is_computed_ahead_of_the_reader(backend: LlamaBackend) -> None:
    """With its first token a stretch is computed to its end; nothing more is, until the first token of the next one is
    requested."""
    items = backend.generate(asked(temperature=0.0))
    assert await decodes(backend) == 0
    ends = [1, 3, 7, 15, 23, 31]
    for number in range(1, ends[-1] + 1):
        assert isinstance(await anext(items), Chunk)
        await until(lambda: is_idle(backend), "the stretch is computed", QUICKLY_S)
        assert await decodes(backend) == min(end for end in ends if end >= number)
    await items.aclose()
    assert await decodes(backend) == ends[-1]


async def test_of_two_answers_in_turn_each_token_is_computed_once(backend: LlamaBackend) -> None:
    """Each slot has its own cache: of the tokens that each stretch repeats, only the last one is not in it."""
    answers = [await first_token(backend, asked(prompt=prompt, temperature=0.0)) for prompt in ("One", "Another")]
    await until(lambda: is_idle(backend), "the first stretches are computed", QUICKLY_S)
    before = await metric(backend, "prompt_tokens_total")
    for _ in range(39):
        for items in answers:
            assert isinstance(await anext(items), Chunk)
    ends = [[item async for item in items] for items in answers]
    assert [getattr(end, "reason", "") for (end,) in ends] == ["length"] * 2
    assert await metric(backend, "tokens_predicted_total") == 80
    # Stretches of 1, 2, 4, 8, 8, 8, 8 and 1.
    assert await metric(backend, "prompt_tokens_total") - before == 2 * 7


async def test_the_tokens_of_a_prompt_are_those_that_its_server_counts(backend: LlamaBackend) -> None:
    """Of a prompt that is new, that is cached, and with an answer so far."""
    request, counts, asked_server = asked(max_tokens=6), list[int | None](), []
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    for _ in range(2):
        *chunks, ending = [item async for item in backend.generate(request)]
        assert isinstance(ending, Ending)
        counts.append(ending.prompt_tokens)
        assert backend.child
        answer = await backend.child.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
        asked_server.append(msgspec.json.decode(answer)["usage"]["prompt_tokens"])
    assert counts == asked_server
    begun = stretches_of([piece for chunk in chunks if isinstance(chunk, Chunk) for piece in chunk.pieces])
    *_, last = [item async for item in backend.generate(asked(prefix=begun, max_tokens=6))]
    assert isinstance(last, Ending)
    assert last.prompt_tokens == counts[0] + sum(len(stretch.ids) for stretch in begun)


@pytest.mark.parametrize("name", MODELS)
async def test_an_answer_is_the_same_however_its_reader_pauses(name: str, folder: Path) -> None:
    """Also where characters of several tokens end its stretches early."""
    async with backend_of(gguf_model(folder, **MODELS[name])) as backend:  # type: ignore[arg-type]
        at_once, reason = await answer_of(backend, asked(max_tokens=60))
        slowly: list[Piece] = []
        async for item in backend.generate(asked(max_tokens=60)):
            slowly += item.pieces if isinstance(item, Chunk) else ()
            await until(lambda: is_idle(backend), "nothing is computed", QUICKLY_S)
    assert slowly == at_once
    assert reason in ("stop", "length")


async def test_closing_or_cancelling_gives_the_slot_back(tiny: Path) -> None:
    async with backend_of(tiny, parallel=1) as backend:
        await backend.load()
        items = await first_token(backend, asked(max_tokens=8_000))
        await items.aclose()  # type: ignore[attr-defined]
        for prompt in ("word " * 2_000, "short"):
            before = await decodes(backend)

            async def computes(before: int = before) -> bool:
                return await decodes(backend) > before

            waiting = asyncio.create_task(answer_of(backend, asked(prompt=prompt, max_tokens=8_000)))
            await until(computes, "it computes", QUICKLY_S)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert len((await answer_of(backend, asked()))[0]) == 40
        await until(lambda: is_idle(backend), "nothing is computed any more", QUICKLY_S)


async def test_more_requests_than_slots_wait_with_a_sign(tiny: Path) -> None:
    async with backend_of(tiny, parallel=2) as backend:
        await backend.load()
        assert (backend.slots, backend.facts.slots) == (2, 2)
        held = [await first_token(backend, asked()) for _ in range(2)]
        third = backend.generate(asked())
        assert await anext(third) == ModelWaiting()
        waiting = asyncio.ensure_future(anext(third))
        await held[0].aclose()  # type: ignore[attr-defined]
        assert isinstance(await waiting, Chunk)
        await third.aclose()


# Thinking


@pytest.mark.parametrize("name", THINKERS)
async def test_thinking_is_a_lane_of_its_own(name: str, folder: Path) -> None:
    """The tags belong to neither lane, and each token is measured."""
    async with backend_of(gguf_model(folder, **THINKERS[name])) as backend:  # type: ignore[arg-type]
        answers = [await answer_of(backend, asked(seed=seed, max_tokens=300)) for seed in range(3)]
    for pieces, _ in answers:
        lanes = [piece.lane for piece in pieces]
        assert lanes[0] == "thinking"
        assert lanes == sorted(lanes, reverse=True)
        thought = "".join(piece.text for piece in pieces if piece.lane == "thinking")
        assert "</think>" not in thought
        assert not thought.startswith(("<think>", "\n"))
        assert {piece.quality for piece in pieces} == {"real"}
    assert any(piece.lane == "answer" for pieces, _ in answers for piece in pieces)


@pytest.mark.parametrize("name", THINKERS)
def test_thinking_is_divided_as_the_server_divides_it(name: str, folder: Path) -> None:
    """The server's own tokens, divided here, are what it sends itself."""
    path = gguf_model(folder, **THINKERS[name])  # type: ignore[arg-type]
    messages = [{"role": "user", "content": "Why?"}]
    parted = 0
    with llama_server(path) as url, httpx.Client(base_url=url, trust_env=False, timeout=QUICKLY_S) as client:
        prompt = client.post("/apply-template", json={"messages": messages}).json()["prompt"]
        for seed in range(8):
            body = {"messages": messages, "max_tokens": 500, "temperature": 0.9, "seed": seed, "logprobs": True}
            answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]
            raw = b"".join(bytes(entry["bytes"]) for entry in answer["logprobs"]["content"])
            if not raw.isascii():
                continue  # a part of a character is not sent over HTTP
            lanes = ThinkingSplitter(prompt)
            shares = dict([*lanes.feed(raw.decode()), *lanes.end()])
            # Of the white space after a tag the server drops as much as the template writes there.
            assert shares.get("thinking", "").strip() == answer["message"].get("reasoning_content", "").strip()
            assert shares.get("answer", "").strip() == answer["message"]["content"].strip()
            parted += len(shares) == 2
    assert parted


# Memory


async def test_a_model_is_loaded_unloaded_and_loaded_again(tiny: Path) -> None:
    async with backend_of(tiny) as backend:
        assert await backend.residents() == ()
        await asyncio.gather(backend.load(), backend.load())
        (resident,) = await backend.residents()
        child = child_of(backend)
        assert resident.model == backend.facts.memory_key[1]
        assert resident.ram_bytes >= backend.facts.size_bytes
        assert resident.vram_bytes == 0
        await backend.load()
        await backend.unload("another")
        assert backend.child is child
        pid = pid_of(child)
        await backend.unload(resident.model)
        assert await backend.residents() == ()
        assert not _exists(child.socket)
        assert not _exists(f"/proc/{pid}")
        await backend.unload(resident.model)
        assert isinstance(await anext(aiter(backend.generate(asked()))), ModelLoading)
        first = await text_of(backend, asked())
        assert backend.child is not child
        assert first == await text_of(backend, asked())


async def test_a_model_that_is_answering_is_not_unloaded(backend: LlamaBackend) -> None:
    items = await first_token(backend, asked())
    with pytest.raises(BackendFailed, match=r"is answering 1 request"):
        await backend.unload(backend.facts.model)
    assert len([item async for item in items]) == 40
    await backend.unload(backend.facts.model)


async def test_a_model_that_does_not_fit_is_refused_with_numbers_before_it_is_loaded(
    tiny: Path, tmp_path: Path
) -> None:
    """A sparse file of four terabytes."""
    huge = tmp_path / "huge.gguf"
    shutil.copy(tiny, huge)
    os.truncate(huge, 4 * 10**12)
    async with backend_of(huge) as backend:
        with pytest.raises(OutOfMemory) as failed:
            await backend.load()
        assert await backend.residents() == ()
    sentence = str(failed.value)
    assert sentence.startswith("gguf:huge needs 4000.30 GB of memory (4000.00 GB of weights, 0.00 GB for 2 contexts of")
    assert sentence.endswith(" GB are free: close other programs, or name a smaller model")


async def test_closing_while_it_is_loaded_leaves_nothing(tiny: Path) -> None:
    async with backend_of(tiny) as backend:
        loading = asyncio.create_task(backend.load())
        await asyncio.sleep(0)
        await backend.close()
        with pytest.raises(BackendFailed):
            await loading
        assert backend.child is None


# Failures


def test_a_file_that_cannot_be_a_model_is_refused_before_a_process_starts(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>")
    for name, code in (("none.gguf", "no_model_file"), ("page.gguf", "bad_model_file")):
        with pytest.raises(Refused) as refused:
            LlamaBackend(*gguf_source(tmp_path / name))
        assert refused.value.code == code


def test_without_llama_cpp_the_message_tells_how_to_install_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"-m pip install xllamacpp"):
        LlamaBackend(*gguf_source(tiny))


def test_without_openmp_the_message_names_the_library_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.llama.backend._OPENMP", "libnosuch.so.1")
    with pytest.raises(Refused, match=r"libnosuch.so.1 is missing: install it \(Debian and Ubuntu: apt install"):
        LlamaBackend(*gguf_source(tiny))


CHANGES = {
    "unknown model architecture: 'zlama'": (b"\0\0\0llama", b"\0\0\0zlama"),
    "unknown pre-tokenizer type: 'gpt-9'": (b"gpt-2", b"gpt-9"),
    "is not within the file bounds": (b"", b""),
    "Unexpected token: ]": (b"messages %}", b"messages %]"),
}


@pytest.mark.parametrize(("words", "change"), CHANGES.items())
async def test_a_model_that_llama_cpp_refuses_fails_with_its_message_and_prints_nothing(
    words: str, change: tuple[bytes, bytes], tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(_bytes_of(tiny).replace(*change, 1) if change[0] else _bytes_of(tiny)[:-100])
    async with backend_of(path) as backend:
        message = await failure_of(backend, asked())
        assert message.startswith("gguf:odd cannot be loaded: llama.cpp reports: ")
        assert words in message
        assert type(await load_failure_of(backend)) is BackendFailed
    assert capfd.readouterr() == ("", "")


async def load_failure_of(backend: LlamaBackend) -> BackendFailed:
    with pytest.raises(BackendFailed) as failed:
        await backend.load()
    return failed.value


async def test_a_template_that_refuses_a_chat_fails_with_its_message_without_the_prompt(
    tiny: Path, tmp_path: Path
) -> None:
    whole = _bytes_of(tiny)
    begin, end = b"{% for message in messages %}", b"{% endfor %}"
    template = whole[whole.index(begin) : whole.index(end)]
    refusing = begin + b"{%if 'zz' in message.content%}{{raise_exception('no '+message.content)}}{%endif%}"
    path = tmp_path / "strict.gguf"
    path.write_bytes(whole.replace(template, refusing.ljust(len(template))))
    assert len(refusing) <= len(template)
    async with backend_of(path) as backend:
        message = await failure_of(backend, asked(prompt="zz is my darkest secret"))
        assert message == "gguf:strict refused the request: Jinja Exception: no …"
        assert len((await answer_of(backend, asked()))[0]) == 40


async def test_a_process_that_crashes_fails_its_answers_and_is_started_again(backend: LlamaBackend) -> None:
    items = await first_token(backend, asked())
    before = child_of(backend)
    os.kill(pid_of(before), signal.SIGKILL)
    with pytest.raises(BackendFailed, match=r"stopped unexpectedly: the system ended llama\.cpp \(Killed\)"):
        assert len([item async for item in items]) < STRETCH_TOKENS
    assert await backend.residents() == ()
    assert not _exists(before.socket)
    assert len((await answer_of(backend, asked()))[0]) == 40
    assert child_of(backend) is not before


async def test_a_model_that_becomes_silent_fails(backend: LlamaBackend) -> None:
    items = await first_token(backend, asked(silence_ms=50))
    pid = pid_of(child_of(backend))
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(BackendFailed, match=r"sent nothing for 0\.05 s"):
            assert len([item async for item in items]) < STRETCH_TOKENS
    finally:
        os.kill(pid, signal.SIGCONT)
    assert len((await answer_of(backend, asked()))[0]) == 40


# Its process


async def test_other_users_cannot_reach_it(backend: LlamaBackend) -> None:
    """A socket in a folder that only this user can open, and no port of any address family."""
    child = child_of(backend)
    assert stat.S_IMODE(os.stat(os.path.dirname(child.socket)).st_mode) == 0o700
    assert stat.S_ISSOCK(os.stat(child.socket).st_mode)
    pid = pid_of(child)
    own, with_ports = sockets_of(pid)
    assert own
    assert not own & with_ports


def sockets_of(pid: int) -> tuple[set[str], set[str]]:
    """(the sockets of a process, the sockets of this machine that have a port)."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    own = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}
    families = [Path(f"/proc/{pid}/net/{family}") for family in ("tcp", "tcp6", "udp", "udp6")]
    return own, {line.split()[9] for family in families for line in family.read_text().splitlines()}


PROGRAM = """
import asyncio, os, sys
from producers.backend import Chunk, Request
from producers.llama.backend import LlamaBackend
from producers.source import gguf_source

async def main():
    backend = LlamaBackend(*gguf_source(sys.argv[1]))
    await backend.load()
    items = backend.generate(Request("Go on", "", 8_000, 1.0, 1, 20, 30_000))
    assert isinstance(await anext(items), Chunk)
    going = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0)
    print(backend.child.socket, flush=True)
    {end}

asyncio.run(main())
"""
ENDS = {
    "returns": ("await going", 0),
    "exits": ("sys.exit(3)", 3),
    "is killed": ("os.kill(os.getpid(), 9)", -9),
}


@pytest.mark.parametrize("way", ENDS)
def test_however_its_producer_ends_nothing_is_left(way: str, tiny: Path) -> None:
    """In the middle of a generation, without closing the backend."""
    end, code = ENDS[way]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{end}", end), str(tiny)],
        capture_output=True, text=True, timeout=QUICKLY_S, check=False,
    )  # fmt: skip
    socket = done.stdout.strip()
    assert (done.returncode, socket.startswith("/")) == (code, True), done.stderr
    wait_until(lambda: not _exists(os.path.dirname(socket)), "its folder is gone")
    wait_until(lambda: not _is_served(socket), "its process is gone")


def _is_served(socket: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if socket.encode() in path.read_bytes():
                return True
    return False
