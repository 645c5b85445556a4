"""The council on the images of Redis and Valkey: the tests that depend most on the server, and a session over TCP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.containers import REDIS_7, VALKEY_8, docker, trouble
from tests.support.council_command import council, environment
from tests.support.project import ROOT
from tests.support.redis_containers import container_class, labels, sweep
from tests.support.redis_servers import server_version
from tests.support.role_processes import roles_on
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.xdist_group("containers")]

# Commits, leases, the cluster and the law after kills of every process, Redis among them.
_TESTS = [
    "tests/transport/test_commit.py",
    "tests/transport/test_leases.py",
    "tests/transport/redis/test_cluster.py",
    "tests/chaos/test_random_faults.py",
]


@pytest.fixture(params=[REDIS_7, VALKEY_8])
def image(request: pytest.FixtureRequest) -> str:
    if reason := trouble(request.param):
        pytest.skip(reason)
    pytest.importorskip("testcontainers", reason="testcontainers is not installed")
    return str(request.param)


def test_the_tests_of_redis_pass_on_the_image(image: str) -> None:
    print(f"\n{image}: {server_version(image)}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", "--redis", image, *_TESTS],
        cwd=ROOT, env=environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_a_council_answers_on_a_published_port_of_the_image(image: str) -> None:
    container_class()
    from testcontainers.community.redis import RedisContainer

    sweep()
    with RedisContainer(image).with_kwargs(labels=labels()) as redis:
        url = f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(6379)}/0"
        with roles_on(url) as roles:
            for role in (["aggregator"], ["producers", "ngram:word-3"], ["producers", "ngram:char-6"]):
                roles.ready(*role)
            asked = council("ask", "What is a container?", "--max-tokens", "8", url=url)
    assert asked.code == 0, asked.said


def test_a_run_that_is_killed_leaves_no_container_to_the_next_one(tmp_path: Path) -> None:
    if reason := trouble(REDIS_7):
        pytest.skip(reason)
    pytest.importorskip("testcontainers", reason="testcontainers is not installed")
    code = f"""
from pathlib import Path
from tests.support.redis_containers import ContainerProcess
container = ContainerProcess({REDIS_7!r}, ["--port", "0", "--unixsocket", "/redis.sock"], Path({str(tmp_path)!r}))
print(container.id, flush=True)
input()
"""
    run = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment() | {"PYTHONPATH": os.pathsep.join(["", *sys.path])},
    )  # fmt: skip
    assert run.stdout is not None
    container = run.stdout.readline().strip()
    try:
        sweep.__wrapped__()
        assert docker("inspect", container).returncode == 0, "a run that goes on keeps its containers"
        run.send_signal(signal.SIGKILL)
        run.wait()
        sweep.__wrapped__()
        wait_until(lambda: docker("inspect", container).returncode != 0, "the container is removed")
    finally:
        run.kill()
        run.communicate()
