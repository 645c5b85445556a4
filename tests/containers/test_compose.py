"""compose.yaml on a Docker engine: built, started, asked, disturbed and stopped. The tests build on each other."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import PYTHON, REDIS_7, docker, trouble
from tests.support.project import ROOT
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.xdist_group("containers")]

_TOKEN = "correct-horse-battery-staple"
_MOST_IMAGE_BYTES = 200 * 10**6
_ROLES = {"aggregator", "decipher", "recorder", "replay", "web", "word-3", "char-6", "bpe-3"}


class Compose:
    """`docker compose` with this project's file, under a project name of the tests."""

    def __init__(self, token_file: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._token_file = token_file

    def run(self, *words: str, token: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs `docker compose WORDS`, with the token's file in the environment or without any token."""
        own = {"COUNCIL_PORT": str(self._port)} | ({"COUNCIL_TOKEN_FILE": str(self._token_file)} if token else {})
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COUNCIL_")}
        return subprocess.run(
            ["docker", "compose", "--project-name", "council-test", "--file", str(ROOT / "compose.yaml"), *words],
            env=environment | own | variables, capture_output=True, text=True, timeout=300, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def succeed(self, *words: str, token: bool = True) -> str:
        """The output of a command that must succeed."""
        done = self.run(*words, token=token)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def get(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The response of the council's HTTP API; None while there is none."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            json.dumps(body).encode() if body is not None else None,
            {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"},
        )
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
        return None

    def ask(self, prompt: str, max_tokens: int = 20) -> str:
        """Opens a session, in which the n-gram models use all their tokens; its id."""
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        opened = wait_until(lambda: self.get("/api/sessions", body), "a session opens")
        return str(opened["session"])

    def answered(self, session: str) -> dict[str, Any]:
        """The session after its end; each member must have finished."""

        def ended() -> dict[str, Any] | None:
            found = self.get(f"/api/sessions/{session}")
            return found if found and found["status"] == "ended" else None

        found = wait_until(ended, f"{session} ends", 60)
        assert [member["state"] for member in found["members"]] == ["finished"] * len(found["members"]), found
        return found


def _is_ready(container: str) -> bool:
    return docker("exec", container, "python", "-m", "consumers.web", "--check").returncode == 0


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    if reason := trouble(PYTHON, REDIS_7):
        pytest.skip(reason)
    if docker("compose", "version").returncode:
        pytest.skip("docker compose is not installed")
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(f"{_TOKEN}\n")
    found = Compose(token)
    # What a killed run left.
    found.succeed("down", "--volumes", "--timeout", "1")
    started = time.monotonic()
    found.succeed("build")
    built = time.monotonic()
    found.succeed("up", "--detach")
    wait_until(lambda: found.get("/readyz"), "the council is ready", 60)
    print(f"\nbuilt in {built - started:.1f} s, ready {time.monotonic() - built:.1f} s later")
    yield found
    found.run("down", "--volumes", "--timeout", "1")


def test_the_image_is_small_and_a_change_of_the_code_installs_nothing(compose: Compose, tmp_path: Path) -> None:
    size = int(docker("image", "inspect", "turbo-ensemble", "--format", "{{.Size}}").stdout)
    print(f"the image has {size / 1e6:.0f} MB")
    assert size < _MOST_IMAGE_BYTES

    def packages(folder: Path) -> str:
        done = subprocess.run(
            ["docker", "build", "--quiet", "--target", "packages", folder],
            env={**os.environ, "DOCKER_BUILDKIT": "1"}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    before = packages(ROOT)
    kept = [path for path in ROOT.iterdir() if not path.name.startswith((".venv", ".git", ".pythons"))]
    for path in kept:
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    (tmp_path / "runtime/role.py").write_text("changed = True")
    assert packages(tmp_path) == before


def test_every_container_is_confined_and_its_health_is_checked(compose: Compose) -> None:
    ids = compose.succeed("ps", "--quiet").split()
    containers = json.loads(docker("inspect", *ids).stdout)
    assert {one["Config"]["Labels"]["com.docker.compose.service"] for one in containers} == _ROLES | {"redis", "port"}
    for one in containers:
        host, name = one["HostConfig"], one["Name"]
        assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"]), name
        assert host["ReadonlyRootfs"], name
        assert host["RestartPolicy"]["Name"] == "unless-stopped", name
        assert min(host["Memory"], host["PidsLimit"]) > 0, name
        assert host["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}, name
        assert one["Config"]["User"] not in ("", "0", "root"), name
        done = docker("exec", one["Id"], *one["Config"]["Healthcheck"]["Test"][1:])
        assert done.returncode == 0, (name, done.stderr)


def test_commands_need_no_token_and_the_web_process_refuses_to_start_without_one(compose: Compose) -> None:
    assert compose.succeed("ps", "--quiet", token=False)
    done = compose.run("run", "--rm", "--no-deps", "-T", "web", token=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Other machines can reach 0.0.0.0: set a token" in done.stderr
    both = compose.run("run", "--rm", "--no-deps", "-T", "web", COUNCIL_TOKEN=_TOKEN)
    assert both.returncode == 2
    assert "COUNCIL_TOKEN and COUNCIL_TOKEN_FILE are both set" in both.stderr


def test_a_killed_aggregator_costs_nothing_and_comes_back(compose: Compose) -> None:
    session = compose.ask("What is a council?", 60)

    def aggregator() -> Any:
        processes = (compose.get("/api/status") or {"processes": []})["processes"]
        return next((one for one in processes if one["role"] == "aggregator"), None)

    wait_until(lambda: compose.get(f"/api/sessions/{session}")["window_index"] > 30, "frames are committed")
    killed = aggregator()
    # From inside: a container that the engine was told to kill is not started again. The command dies with it.
    compose.run("exec", "-T", "aggregator", "python", "-c", f"import os; os.kill({killed['pid']}, 9)")
    answers = [member["text"] for member in compose.answered(session)["members"]]
    assert len(answers) > 1
    assert all(answers)
    assert aggregator()["name"] != killed["name"]


def test_two_web_processes_share_one_address(compose: Compose) -> None:
    compose.succeed("up", "--detach", "--scale", "web=2", "--scale", "aggregator=2", "--no-recreate")
    first, second = compose.succeed("ps", "--quiet", "web").split()
    session = compose.ask("Who answers?")
    compose.answered(session)
    for container in (first, second):
        assert docker("kill", container).returncode == 0
        assert wait_until(lambda: compose.get(f"/api/sessions/{session}"), "the other one answers")
        assert docker("start", container).returncode == 0
        wait_until(lambda id=container: _is_ready(id), "it is ready again")


def test_a_restart_of_redis_loses_nothing(compose: Compose) -> None:
    session = compose.ask("What is kept?")
    before = compose.answered(session)
    compose.succeed("restart", "redis")
    after = wait_until(lambda: compose.get(f"/api/sessions/{session}"), "the council answers again")
    assert after["members"] == before["members"]
    compose.answered(compose.ask("And now?"))


def test_it_stops_at_once_and_leaves_nothing(compose: Compose) -> None:
    started = time.monotonic()
    compose.succeed("down", "--volumes", token=False)
    took_s = time.monotonic() - started
    print(f"stopped in {took_s:.1f} s")
    assert took_s < 15
    for kind in ("container", "volume", "network"):
        left = docker(kind, "ls", "--quiet", "--filter", "label=com.docker.compose.project=council-test")
        assert left.stdout == "", kind
