"""The programs in docs/streams.md, which know the streams from that page alone, read sessions of a real council."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from schemas import keys
from schemas.frame_json import frame_json
from schemas.frames import FRAME_VERSION, Frame, decode_frame, encode_frame
from schemas.sessions import Opening
from tests.docs.test_streams import ASYNCAPI, PAGE, made
from tests.support.clusters import Server
from tests.support.council_command import environment
from tests.support.frames import made_frame
from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer, oldest_binary
from tests.support.role_processes import roles_on
from tests.support.scripted_sessions import FrameWriter
from tests.support.sessions import opening_of, until_ended
from tests.support.waiting import wait_until
from tests.support.web_server import CHAR, PACE
from transport.redis.connection import AsyncPipe, Pipe
from transport.sessions import open_session

WORD = "ngram:word-3"
_BLOCKS = re.findall(r"^```(python|js)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SHORT, CONSUMER = (text for language, text in _BLOCKS if language == "python")
MODULE, LIBRARY = (text for language, text in _BLOCKS if language == "js")
languages = pytest.mark.parametrize(
    "language",
    ["python", pytest.param("js", marks=pytest.mark.skipif(not shutil.which("node"), reason="there is no node here"))],
)


class Reader:
    """A program of the page, in a folder of its own. `lines` waits for its end."""

    def __init__(self, language: str, folder: Path, *arguments: str, **variables: str) -> None:
        (folder / "consumer.py").write_text(SHORT if language == "short" else CONSUMER)
        (folder / "consumer.mjs").write_text(MODULE)
        (folder / "redis_msgpack.mjs").write_text(LIBRARY)
        command = ["node", "consumer.mjs"] if language == "js" else [sys.executable, "consumer.py"]
        self._out = folder / "out.txt"
        self.process = subprocess.Popen(
            [*command, *arguments], cwd=folder, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            stdout=self._out.open("w"), env=environment(PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1", **variables),
        )  # fmt: skip

    def lines(self) -> tuple[int, str, list[str]]:
        """(exit code, standard error, the lines of standard output)"""
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said.strip(), self.shown()

    def shown(self) -> list[str]:
        return self._out.read_text().splitlines()


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Callable[..., Reader]]:
    """Starts readers, and ends those that still run after the test."""
    started = list[Reader]()

    def start(language: str, *arguments: str, **variables: str) -> Reader:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Reader(language, folder, *arguments, **variables))
        return started[-1]

    yield start
    for reader in started:
        reader.process.kill()
        reader.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A council of two members on a Redis with the user of the page, who may only read."""
    found = Server(oldest_binary(), tmp_path_factory.mktemp("redis"))
    (rule,) = re.findall(r"redis-cli (ACL SETUSER reader .*)", PAGE.replace("\\\n", " "))
    found.run(*shlex.split(rule))
    try:
        with roles_on(found.url) as roles:
            started = [roles.start("aggregator"), roles.start("consumers.decipher")]
            started += [roles.start("producers", model, *PACE) for model in (CHAR, WORD)]
            for role in started:
                role.wait_ready()
            yield found
    finally:
        found.close()


def opened(sync: str = "step") -> Opening:
    opening = opening_of(CHAR, WORD, max_tokens=30)
    return msgspec.structs.replace(opening, sync=sync, mixture=3 if sync == "consensus" else 0)


async def frames_read(pipe: AsyncPipe, session: str) -> list[Frame]:
    await until_ended(pipe, session)
    return [decode_frame(fields[1]) for _, fields in await pipe.one("XRANGE", keys.frames(session), "-", "+")]


@languages
async def test_a_consumer_reads_a_session_while_it_runs(
    server: Server, read: Callable[..., Reader], language: str
) -> None:
    pipe, opening = AsyncPipe(server.url), opened()
    await open_session(pipe, opening)
    reader = read(language, server.url.replace("//", "//reader:PASSWORD@"), opening.session)
    frames = await frames_read(pipe, opening.session)
    await pipe.close()
    texts = {name: "".join(frame.members[index].text for frame in frames) for index, name in enumerate(opening.names)}
    code, said, lines = reader.lines()
    assert (code, said) == (0, "")
    assert json.loads(lines[-1]) == texts
    assert min(map(len, texts.values())) > 10


@languages
def test_a_consumer_reads_the_database_of_its_url(server: Server, read: Callable[..., Reader], language: str) -> None:
    url = server.url.removesuffix("/0") + "/3"
    with contextlib.closing(Pipe(url)) as pipe:
        pipe.run([("HSET", keys.state("third"), "status", "ended", "reason", "It is in database 3.")])
    reader = read(language, url.replace("//", "//reader:PASSWORD@"), "third")
    assert reader.lines() == (1, "It is in database 3.", [])


def test_the_short_form_reads_the_newest_session(redis: RedisServer, read: Callable[..., Reader]) -> None:
    writer = FrameWriter(redis, "text")
    writer.announce()
    writer.write(1)
    reader = read("short", REDIS_URL=redis.url)
    wait_until(reader.shown, "the first frame is read")
    writer.write(1, final=True)
    assert reader.lines() == (0, "", ["0 0.5 ['text']", "1 0.5 ['text']"])


async def test_each_entry_of_a_session_is_what_the_asyncapi_document_describes(server: Server) -> None:
    """Packed as MessagePack, and decoded as any library decodes it."""
    pipe, opening = AsyncPipe(server.url), opened("consensus")
    await open_session(pipe, opening)
    await until_ended(pipe, opening.session)

    def is_composed() -> bool:
        return bool(server.run("HGET", keys.state(opening.session), "composed"))

    wait_until(is_composed, "all events are composed")
    document = json.loads(ASYNCAPI.read_text())
    for name in ("frames", "tokens", "events"):
        entries = await pipe.one("XRANGE", f"council:{{{opening.session}}}:{name}", "-", "+")
        assert len(entries) > 10
        allowed = document["channels"][name]["messages"].values()
        found = {check_entry(document, [message["$ref"] for message in allowed], fields[1]) for _, fields in entries}
        assert {"frames": {"Frame"}, "tokens": {"open", "t", "claim", "steered", "finished"}}.get(name, set()) <= found
    for frame in await frames_read(pipe, opening.session):
        check_message(document, "frame", json.loads(frame_json(frame)))
    written = await pipe.one("HKEYS", keys.state(opening.session))
    assert {field.decode() for field in written} <= set(made()[3])
    await pipe.close()


def check_entry(document: dict[str, Any], messages: list[str], raw: bytes) -> str:
    """The name of the message that the entry is. Fails unless its schema allows it."""
    described = {ref: document["components"]["messages"][ref.rpartition("/")[2]] for ref in messages}
    is_json = raw.startswith(b"{")
    value = json.loads(raw) if is_json else as_json(msgspec.msgpack.decode(raw))
    tag = value["type"] if is_json else value[0] if isinstance(value[0], str) else "Frame"
    (name,) = [ref.rpartition("/")[2] for ref, message in described.items() if message["name"] == tag]
    check_message(document, name, value)
    return str(tag)


def check_message(document: dict[str, Any], name: str, value: Any) -> None:
    schema = {"allOf": [document["components"]["messages"][name]["payload"]], "components": document["components"]}
    jsonschema_rs.Draft7Validator(schema).validate(value)


def as_json(value: Any) -> Any:
    if isinstance(value, list):
        return [as_json(part) for part in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


@languages
def test_a_consumer_ends_with_a_sentence_where_it_cannot_go_on(
    redis: RedisServer, read: Callable[..., Reader], language: str
) -> None:
    newer, failed = FrameWriter(redis), FrameWriter(redis)
    packed = msgspec.msgpack.decode(encode_frame(made_frame(0, ())))
    packed[0], version = FRAME_VERSION + 1, FRAME_VERSION
    redis.run("XADD", newer.key, "1-0", "e", msgspec.msgpack.encode([*packed, "more"]))
    redis.run("HSET", keys.state(failed.session), "status", "ended", "reason", "The council broke.")
    sentences = {
        "none": "There is no such session.",
        failed.session: "The council broke.",
        newer.session: (
            f"The frames of {newer.session} have version {version + 1}; this program reads version {version}."
        ),
    }
    readers = {session: read(language, redis.url, session) for session in sentences}
    assert {session: reader.lines() for session, reader in readers.items()} == {
        session: (1, sentence, []) for session, sentence in sentences.items()
    }


@languages
def test_a_consumer_notices_that_redis_lost_what_it_has_read(
    redis: RedisServer, read: Callable[..., Reader], language: str
) -> None:
    """The frames that replace them are equal byte for byte: only the nonce is another one."""
    writer = FrameWriter(redis, "text")
    writer.write(2, nonce=b"11111111")
    reader = read(language, redis.url, writer.session)
    wait_until(lambda: len(reader.shown()) == 2, "both frames are read")
    writer.lose()
    writer.write(2, nonce=b"22222222")
    assert reader.lines()[:2] == (
        1, f"Redis lost the newest data of {writer.session}: read it again from its beginning.",
    )  # fmt: skip
