"""Invalid input is refused with one sentence that contains what to do, and exit code 2; nothing is started."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.role import run_role
from schemas.errors import CouncilError, Refused, Unavailable
from tests.support.council_command import council, environment
from tests.support.council_in_process import council as council_here

ASKS = {
    "empty prompt": (["ask", "  "], ["prompt is empty"]),
    "long prompt": (["ask", "x" * 33_000], ["33000 bytes", "32768"]),
    "long system text": (["ask", "hi", "--system", "x" * 33_000], ["system text", "32768"]),
    "unknown model": (["ask", "hi", "--models", "llama9"], ["no model 'llama9'", "ngram:word-3"]),
    "same model twice": (["ask", "hi", "--models", "ngram:bpe-2,ngram:bpe-2"], ["named twice"]),
    "empty model": (["ask", "hi", "--models", "ngram:bpe-2,,ngram:bpe-3"], ["empty name"]),
    "weight not a number": (["ask", "hi", "--weights", "ngram:bpe-2=heavy"], ["NAME=NUMBER"]),
    "weight not finite": (["ask", "hi", "--models", "ngram:bpe-2", "--weights", "ngram:bpe-2=nan"], ["finite"]),
    "infinite weight": (["ask", "hi", "--models", "ngram:bpe-2", "--weights", "ngram:bpe-2=inf"], ["finite"]),
    "negative weight": (["ask", "hi", "--models", "ngram:bpe-2", "--weights", "ngram:bpe-2=-1"], ["0 or more"]),
    "all weights zero": (["ask", "hi", "--models", "ngram:bpe-2", "--weights", "ngram:bpe-2=0"], ["All weights are 0"]),
    "weight of an unknown member": (
        ["ask", "hi", "--models", "ngram:bpe-2", "--weights", "x=1"],
        ["unknown member 'x'"],
    ),
    "unknown weighting": (["ask", "hi", "--weighting", "heavy"], ["weighting is 'heavy'", "fixed or certainty"]),
    "unknown sync": (["ask", "hi", "--sync", "fast"], ["sync is 'fast': give step or free."]),
    "unknown tier": (["ask", "hi", "--tier", "huge"], ["Unknown tier 'huge'", "low, mid, high, hybrid"]),
    "too many tokens": (["ask", "hi", "--max-tokens", "9000"], ["1 to 8192"]),
    "no tokens": (["ask", "hi", "--max-tokens", "0"], ["1 to 8192"]),
    "hot": (["ask", "hi", "--temperature", "9"], ["0 to 2"]),
    "temperature nan": (["ask", "hi", "--temperature", "nan"], ["0 to 2"]),
    "negative seed": (["ask", "hi", "--seed", "-1"], ["seed"]),
    "unknown flag": (["ask", "hi", "--frobnicate"], ["--frobnicate"]),
    "tokens no number": (["ask", "hi", "--max-tokens", "many"], ["--max-tokens", "integer"]),
    "unreachable redis": (
        ["ask", "hi", "--redis-url", "redis://127.0.0.1:1/0"],
        ["No Redis answers at redis://127.0.0.1:1/0"],
    ),
    "password with a comma": (
        ["ask", "hi", "--redis-url", "redis://me:pa,ss@127.0.0.1:1/0"],
        ["No Redis answers at redis://127.0.0.1:1/0"],
    ),
    "wrong redis url": (
        ["ask", "hi", "--redis-url", "http://localhost"],
        ["not a valid Redis URL", "redis://HOST:PORT"],
    ),
    "redis url port": (["ask", "hi", "--redis-url", "redis://localhost:notaport"], ["not a valid Redis URL"]),
    "redis url database": (["ask", "hi", "--redis-url", "redis://localhost/abc"], ["not a valid Redis URL"]),
    "redis url option": (["ask", "hi", "--redis-url", "redis://localhost/0?foo=secret"], ["correct its query"]),
    "redis url value": (["ask", "hi", "--redis-url", "rediss://localhost/0?ssl_cert_reqs=x"], ["correct its query"]),
    "redis url object": (
        ["ask", "hi", "--redis-url", "redis://127.0.0.1:1/0?credential_provider=x"],
        ["known options", "client_name"],
    ),
    "no council to stop": (["stop", "abc"], ["council up"]),
    "no council": (["status"], ["council up"]),
    "settings missing": (["ask", "hi", "--config", "nowhere.toml"], ["no settings file", "nowhere.toml"]),
    "up unknown model": (["up", "--models", "llama9"], ["no model 'llama9'", "ngram:word-3"]),
    "up same model": (["up", "--models", "ngram:bpe-2,ngram:bpe-2"], ["named twice"]),
    "up unknown tier": (["up", "--tier", "huge"], ["--tier", "'low'"]),
    "up bad port": (["up", "--port", "70000"], ["--port"]),
    "up bad host": (["up", "--host", "256.256.256.256"], ["'256.256.256.256' is not an address"]),
    "up unreachable redis": (["up", "--redis-url", "redis://127.0.0.1:1"], ["No Redis answers"]),
    "unknown command": (["frobnicate"], ["frobnicate"]),
}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command in this process finds no settings, and has this empty folder for itself and for temporary files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("case", ASKS)
def test_invalid_input_is_refused_in_one_sentence(case: str, alone: Path) -> None:
    arguments, words = ASKS[case]
    council_here(*arguments).assert_refused(*words)
    assert list(alone.iterdir()) == []


SETTINGS = {
    "no toml": ("tier = \n", ["council.toml", "line 1"]),
    "unknown key": ('tier = "low"\nport = 1\nspeed = 3\n', ["council.toml, line 3", "speed", "no such setting"]),
    "wrong value": ('# a comment\ntier = "huge"\n', ["council.toml, line 2", "tier"]),
    "wrong type": ('port = "many"\n', ["council.toml, line 1", "port"]),
    "nested": (
        '[servers.mine]\nurl = "http://127.0.0.1:1"\nmodels = []\n',
        ["council.toml, line 3", "servers.mine.models"],
    ),
    "no url": ('[servers.mine]\nurl = "nonsense"\nmodels = ["a"]\n', ["council.toml, line 2", "servers.mine.url"]),
    "password in a url": ('[servers.mine]\nurl = "http://ada:12/love@h"\n', ["council.toml, line 2", "key_env"]),
    "unknown limit": ("[limits]\nfirst_token_ms = 5\nlast_token_ms = 5\n", ["council.toml, line", "last_token_ms"]),
    "endless life": ("[limits]\nlife_ms = 10000000000\n", ["council.toml, line", "life_ms", "86400000"]),
    "twice": (
        '[servers.a]\nurl = "http://h"\nmodels = ["m", "n", "m"]\n',
        ["council.toml, line 3", "'m'", "twice"],
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_malformed_settings_are_refused_with_key_and_line(case: str, alone: Path) -> None:
    text, words = SETTINGS[case]
    (alone / "council.toml").write_text(text)
    council_here("ask", "hi").assert_refused(*words)


@pytest.mark.parametrize(
    ("name", "value"), [("COUNCIL_TIER", "huge"), ("COUNCIL_PORT", "many"), ("COUNCIL_LIMITS", "{")]
)
def test_a_malformed_variable_is_refused_by_name(name: str, value: str, tmp_path: Path) -> None:
    council("ask", "hi", cwd=tmp_path, **{name: value}).assert_refused("COUNCIL_")


def test_flags_outweigh_variables_and_variables_outweigh_the_file(tmp_path: Path) -> None:
    """The file, COUNCIL_* variables, flags: each outweighs the one before. The refusal shows which value was used."""
    (tmp_path / "council.toml").write_text('redis_url = "redis://127.0.0.1:1/1"\n')
    council("ask", "hi", cwd=tmp_path).assert_refused("redis://127.0.0.1:1/1")
    variable = {"COUNCIL_REDIS_URL": "redis://127.0.0.1:1/2"}
    council("ask", "hi", cwd=tmp_path, **variable).assert_refused("redis://127.0.0.1:1/2")
    council("ask", "hi", "--redis-url", "redis://127.0.0.1:1/3", cwd=tmp_path, **variable).assert_refused(":1/3")


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        council("up", "--port", str(port), TMPDIR=str(tmp_path)).assert_refused(
            f"Port {port}", "--port", "make run PORT="
        )
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def _speaker(answer: bytes) -> Iterator[str]:
    """A server that answers every command with the same bytes, as old or foreign servers do."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    while data := client.recv(65_536):
                        client.sendall(answer * max(1, data.count(b"*")))

        threading.Thread(target=serve, daemon=True).start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_an_old_redis_is_refused_by_its_version() -> None:
    info = b"redis_version:5.0.14\r\n"
    with _speaker(b"$%d\r\n%s\r\n" % (len(info), info)) as url:
        council("ask", "hi", "--redis-url", url).assert_refused("5.0.14", "6.2")


def test_a_redis_that_requires_a_password_has_its_own_message() -> None:
    with _speaker(b"-NOAUTH Authentication required.\r\n") as url:
        council("ask", "hi", "--redis-url", url).assert_refused("refuses the connection", "USER:PASSWORD")


def test_a_server_that_is_not_a_redis_is_refused() -> None:
    with _speaker(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        council("ask", "hi", "--redis-url", url).assert_refused("No Redis answers")


ROLES = (["producers", "ngram:word-3"], ["aggregator"], ["consumers.decipher"], ["consumers.web", "--port", "0"])


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role[0])
def test_a_role_without_a_redis_is_refused(role: list[str], tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.support.council_command import Outcome, environment

    def run(url: str | None) -> Outcome:
        return Outcome(
            subprocess.run(
                [sys.executable, "-m", *role],
                env=environment(url),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        )

    run(None).assert_refused("REDIS_URL")
    run("redis://127.0.0.1:1").assert_refused("No Redis answers")
    run("gopher://x").assert_refused("not a valid Redis URL")


@pytest.mark.parametrize(("error", "code"), [(Refused("bad", "Do this."), 2), (Unavailable("It is missing."), 1)])
def test_a_role_that_cannot_run_writes_the_reason_in_one_sentence(
    error: CouncilError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        raise error

    assert run_role(work()) == code
    assert capsys.readouterr().err == f"{error}\n"
