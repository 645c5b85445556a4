"""`python -m ROLE --check`: 0 while a process of the role is ready on this host."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas import keys
from tests.support.council_command import environment
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.waiting import wait_until
from tests.support.web_server import WebServer
from transport.redis.connection import Pipe
from transport.register import ProcessRegistration

# Each role's module, and the arguments that it needs to start.
_ROLES = {
    "aggregator": [],
    "producers": ["ngram:word-3"],
    "producers.replay": [],
    "consumers.decipher": [],
    "consumers.recorder": [],
}


def check(url: str, module: str) -> tuple[int, str]:
    """(exit code, standard error) of `python -m MODULE --check`."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--check"], env=environment(url), capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("module", _ROLES)
def test_a_role_is_ready_until_its_process_ends(redis: RedisServer, roles: Roles, tmp_path: Path, module: str) -> None:
    assert check(redis.url, module)[0] == 1
    role = roles.ready(module, *_ROLES[module], COUNCIL_RECORDINGS=str(tmp_path))
    assert check(redis.url, module) == (0, "")
    others = [other for other in _ROLES if other != module]
    assert check(redis.url, others[0])[0] == 1
    # The record of a process that was killed stays for seconds, but the process does not.
    role.kill()
    code, said = check(redis.url, module)
    assert (code, said.count("\n"), "is ready on this host: start one, or read its log." in said) == (1, 1, True)


def test_the_web_process_must_answer(redis: RedisServer) -> None:
    with contextlib.closing(WebServer(redis.url, COUNCIL_TOKEN="correct-horse-battery-staple")) as web:
        wait_until(lambda: check(redis.url, "consumers.web") == (0, ""), "the web process is ready")
        web.process.send_signal(signal.SIGSTOP)
        assert check(redis.url, "consumers.web")[0] == 1
        web.process.send_signal(signal.SIGCONT)


def test_only_a_ready_process_of_this_host_counts(redis: RedisServer) -> None:
    registration = ProcessRegistration("aggregator")
    with contextlib.closing(Pipe(redis.url)) as pipe:
        for ready, host, code in ((False, registration.host, 1), (True, "elsewhere", 1), (True, registration.host, 0)):
            registration.ready, registration.host = ready, host
            # The check may need longer to start than a record lives.
            pipe.run([*registration.renew(), ("EXPIRE", keys.process(registration.name), 60)])
            assert check(redis.url, "aggregator")[0] == code


def test_without_redis_the_reason_is_one_sentence(redis: RedisServer) -> None:
    for url, words in (
        (f"unix:///nonexistent/{os.getpid()}", "Redis does not answer: start it, or correct REDIS_URL."),
        (redis.url.replace("unix://", "unix://me:S3cr3t@"), "the user name or the password is wrong"),
        ("nonsense", "is not a valid Redis URL"),
        ("", "REDIS_URL is not set"),
    ):
        code, said = check(url, "aggregator")
        assert (code, said.count("\n"), words in said) == (1, 1, True), said
