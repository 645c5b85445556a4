"""No part of a Redis password is shown: by no command, no role, no log at the level debug, no answer, no list of
processes. tests/transport/redis/test_address.py shows the same for the sentences, with random secrets."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import traceback
from pathlib import Path

import httpx
import pytest
import typer

from council.command.cli import app
from schemas.errors import RedisAway
from tests.support.clusters import Server
from tests.support.council_command import environment
from tests.support.council_in_process import council
from tests.support.recording_files import write_golden
from tests.support.redis_servers import RedisServer, preferred_binary
from tests.support.running_council import Up, command_of
from tests.support.waiting import wait_until
from transport.redis.connection import AsyncPipe, Pipe

# Each part is long enough to be found anywhere.
START, END = "S3cr3tStart", "Pw9secretEnd"
# The last is valid; no Redis is there.
RAW = [f"redis://:{START}{character}{END}@127.0.0.1:1/0" for character in "#/?@%[ :"]
RAW += [f"redis://{START}:{END}@127.0.0.1:1/zero", f"redis://127.0.0.1:1/0?password={START}&x={END}", f"{START}#{END}"]
ARGUMENTS = {"stop": ["abc"], "keep": ["abc"], "ask": ["hi"], "up": ["--port", "0"]}
ROLES = (
    ["aggregator"], ["producers", "ngram:char-6"], ["producers.replay"], ["consumers.decipher"], ["consumers.recorder"],
    ["consumers.web", "--port", "0"],
)  # fmt: skip


def assert_hidden(text: str | bytes) -> None:
    shown = text if isinstance(text, str) else text.decode("utf-8", "replace")
    assert START not in shown
    assert END not in shown


def commands_with_a_redis() -> list[str]:
    """The commands that take --redis-url, by the command line's own table."""
    group = typer.main.get_command(app)
    return [name for name, one in vars(group)["commands"].items() if any(p.name == "redis_url" for p in one.params)]


@pytest.mark.parametrize("url", RAW)
def test_no_command_shows_a_part_of_a_password(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("COUNCIL_LOG", "debug")
    names = commands_with_a_redis()
    assert {"ask", "up", "status", "sessions", "stop", "keep", "replay"} <= {*names}
    recording = {"replay": [str(write_golden(tmp_path))]}
    for name in names:
        outcome = council(name, *(ARGUMENTS | recording).get(name, []), "--redis-url", url)
        assert outcome.code != 0
        assert_hidden(outcome.out + outcome.said)
        if url.startswith("redis"):  # in the place of another argument
            outcome = council(name, url)
            assert_hidden(outcome.out + outcome.said)
    monkeypatch.setenv("REDIS_URL", url)
    for arguments in (["status", "--json"], ["doctor", "--json"], ["doctor"], ["models"], ["recordings"]):
        outcome = council(*arguments)
        assert_hidden(outcome.out + outcome.said)


def test_no_role_shows_a_part_of_a_password() -> None:
    """Each with other characters, all at once; one also with the URL as an argument, and as a health check."""
    as_argument, as_check = [*ROLES[0], "--redis-url", RAW[0]], [*ROLES[1], "--check"]
    starts = [*zip(ROLES, RAW, strict=False), (as_argument, RAW[0]), (as_check, RAW[1])]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *words], env=environment(url, COUNCIL_LOG="debug"), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for words, url in starts
    ]  # fmt: skip
    for process in running:
        said, _ = process.communicate(timeout=60)
        assert process.returncode in (1, 2), said
        assert_hidden(said)
        assert b"Traceback" not in said


def test_a_redis_that_quotes_the_password_does_not_show_it(tmp_path: Path) -> None:
    """As one whose administrator renamed AUTH: it replies the arguments of an unknown command."""
    with contextlib.closing(Server(preferred_binary(), tmp_path, "--rename-command", "AUTH", "")) as server:
        url = server.url.replace("://", f"://:{START}%23{END}@")
        with pytest.raises(RedisAway) as raised:
            Pipe(url).run([("TIME",)])
        with pytest.raises(RedisAway) as raised_async:
            asyncio.run(AsyncPipe(url).run([("TIME",)]))
        for error in (raised.value, raised_async.value):
            assert_hidden("".join(traceback.format_exception(error)))
        outcome = council("status", "--redis-url", url)
        outcome.assert_refused("refuses the connection (unknown command 'AUTH')")
        assert_hidden(outcome.said)


def test_a_council_shows_its_password_to_its_own_processes_alone(own_redis: RedisServer, tmp_path: Path) -> None:
    """Not in a command line, an answer, a recording or a log; only in the environment, which other users cannot
    read."""
    own_redis.run("CONFIG", "SET", "requirepass", f"{START}#{END}")
    url, library = own_redis.url.replace("unix://", f"unix://:{START}%23{END}@"), tmp_path / "library"
    variables = {"COUNCIL_LOG": "debug", "COUNCIL_RECORD": "all", "COUNCIL_RECORDINGS": str(library)}
    with contextlib.closing(Up(tmp_path, "--redis-url", url, tokens_per_s=500, **variables)) as up:
        family = up.family()
        assert len(family) >= 6
        for pid in family:
            assert command_of(pid)
            assert_hidden(command_of(pid))
        opened = httpx.post(f"{up.address}/api/sessions", json={"prompt": "hi", "max_tokens": 3})
        assert opened.status_code == 201
        for path in ("status", "sessions", "models", "openapi.json", "recordings"):
            assert_hidden(httpx.get(f"{up.address}/api/{path}").text)
        for arguments in (["status"], ["status", "--json"], ["sessions"], ["doctor", "--json"]):
            outcome = council(*arguments, REDIS_URL=url, OLLAMA_HOST="127.0.0.1:1")
            assert_hidden(outcome.out + outcome.said)
        wait_until(lambda: len([*library.glob("*.mcap")]) == 1, "the session is recorded")
        own_redis.kill()
        wait_until(lambda: "Redis is away" in up.text(), "the roles notice it")
        assert_hidden(up.text())
    (recording,) = library.glob("*.mcap")
    for arguments in (["inspect"], ["export", "--format", "otlp"], ["export", "--format", "jsonl", "--what", "frames"]):
        outcome = council(*arguments, str(recording))
        assert outcome.code == 0, outcome.said
        assert_hidden(outcome.out)
