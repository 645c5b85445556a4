"""Redis restarts without its last writes while clients of all kinds read a session: each ends with its true text."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from council.ensemble_session import EnsembleSession
from schemas import keys
from schemas.errors import SetBack
from tests.chaos.events import check_finished_with_events
from tests.chaos.proxied_roles import AGGREGATOR, DECIPHER, ngram, proxied_roles_on
from tests.support.council_command import COUNCIL, environment
from tests.support.live_clients import EventStreamClient, FramesClient, LiveClient, ProtocolClient, all_receive
from tests.support.protocol import texts_by_model
from tests.support.redis_servers import DurableRedis
from tests.support.waiting import until
from tests.support.web_server import WebServer
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, read_opening

_MODELS = ("ngram:char-6", "ngram:char-8")
_COUNCIL = (AGGREGATOR, AGGREGATOR, ngram("char-6", 40), ngram("char-8", 40), DECIPHER)


class Asked:
    """`council ask --json`, which opens the session. It writes into files, because a full pipe would stop it."""

    def __init__(self, url: str, folder: Path) -> None:
        # At temperature 0 the models use all their tokens.
        words = ["ask", "What is a function?", "--models", ",".join(_MODELS), "--max-tokens", "160", "--json"]
        words += ["--temperature", "0"]
        self._output, self._said = folder / "output", folder / "said"
        with self._output.open("wb") as output, self._said.open("wb") as said:
            self.process = subprocess.Popen([*COUNCIL, *words], env=environment(url), stdout=output, stderr=said)

    def end(self) -> tuple[int, list[str], str]:
        """Waits for its end: the exit code, the lines of standard output, standard error."""
        code = self.process.wait(60)
        return code, self._output.read_text().splitlines(), self._said.read_text()


@pytest.fixture
def asked(durable: DurableRedis, tmp_path: Path) -> Iterator[Asked]:
    found = Asked(durable.url, tmp_path)
    yield found
    found.process.kill()
    found.process.wait()


@contextlib.asynccontextmanager
async def _webs(durable: DurableRedis) -> AsyncIterator[tuple[WebServer, WebServer, aiohttp.ClientSession]]:
    """Two web processes, and a client of both."""
    with contextlib.closing(WebServer(durable.url)) as first, contextlib.closing(WebServer(durable.url)) as second:
        async with aiohttp.ClientSession() as client:
            yield first, second, client


class ApiReader:
    """A program that uses the Python API. `texts` are those of the frames since the last SetBack."""

    def __init__(self, pipe: AsyncPipe) -> None:
        self._pipe = pipe
        self.texts = ["", ""]
        self.set_backs = 0

    async def read(self, session: str) -> None:
        opening = await read_opening(self._pipe, await find_session(self._pipe, session))
        while True:
            self.texts = ["", ""]
            try:
                async for frame in EnsembleSession(self._pipe, opening, ()).frames():
                    self.texts = [text + member.text for text, member in zip(self.texts, frame.members, strict=True)]
                return
            except SetBack:
                self.set_backs += 1


def _texts(client: LiveClient) -> list[str]:
    match client:
        case FramesClient():
            return ["".join(frame["members"][index]["text"] for frame in client.frames) for index in (0, 1)]
        case ProtocolClient():
            texts = texts_by_model(client.events)
        case EventStreamClient():
            texts = texts_by_model([event for _, event in client.entries])
    return [texts[model.replace(":", "-")] for model in _MODELS]


async def test_each_client_ends_with_the_text_that_redis_has(
    durable: DurableRedis, direct: AsyncPipe, asked: Asked
) -> None:
    """windows 0 .. 60 .. 150 | a web process and Redis are killed, Redis restarts with 0 .. 60 | the rest is written
    again | past window 200 that web process starts again: its clients continue from windows that have another content
    now."""
    with proxied_roles_on(durable, *_COUNCIL) as roles:
        async with _webs(durable) as (stays, restarts, client):
            session = await _opened(direct)
            clients: list[LiveClient] = [
                kind
                for web in (stays, restarts)
                for kind in (
                    FramesClient(client, web, session),
                    ProtocolClient(client, web, session, 2),
                    EventStreamClient(client, web, session),
                )
            ]
            program = ApiReader(direct)
            reading = asyncio.gather(*(reader.read() for reader in clients), program.read(session))
            await _reaches(direct, session, 60)
            length = durable.append_only_file.stat().st_size
            await _reaches(direct, session, 150)
            await all_receive(*clients)
            restarts.kill()
            durable.roll_back(length)
            await direct.close()
            await _reaches(direct, session, 200)
            restarts.start()
            await reading
            code, lines, said = await asyncio.to_thread(asked.end)
            frames = await check_finished_with_events(direct, session)
            roles.check()
            async with client.get(f"{stays.http}/api/sessions/{session}") as answer:
                found = await answer.json()
    true = [member["text"] for member in found["members"]]
    assert true == ["".join(frame.members[index].text for frame in frames) for index in (0, 1)]
    assert {type(each).__name__: _texts(each) for each in clients[:3]} == dict.fromkeys(
        ("FramesClient", "ProtocolClient", "EventStreamClient"), true
    )
    assert {type(each).__name__: _texts(each) for each in clients[3:]} == dict.fromkeys(
        ("FramesClient", "ProtocolClient", "EventStreamClient"), true
    )
    assert [each.set_backs for each in clients] == [1] * 6
    assert (program.texts, program.set_backs) == (true, 1)
    assert [member["text"] for member in msgspec.json.decode(lines[-1])["members"]] == true
    assert (code, said.count("Redis lost the newest part of this session")) == (0, 1)


async def _opened(pipe: AsyncPipe) -> str:
    async def opened() -> str | None:
        entries = await pipe.one("XRANGE", keys.SESSIONS, "-", "+")
        return keys.session_named(entries[0][1][1]) if entries else None

    return str(await until(opened, "the session is opened"))


async def _reaches(pipe: AsyncPipe, session: str, window: int) -> None:
    async def is_there() -> bool:
        return (await find_session(pipe, session)).window >= window

    await until(is_there, f"window {window} is committed")
