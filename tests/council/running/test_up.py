"""`council up`: all processes start, dead ones are started again, and all end with it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import msgspec
import pytest

from consumers.web.door.listening import MOST_PORTS, bind_from
from council.running import supervisor as supervising
from council.running.supervisor import CouncilPlan, Supervisor
from runtime.socket_folder import new_socket_folder
from schemas import keys
from schemas.errors import Refused
from schemas.rules.tiers import TIERS
from tests.support.council_command import COUNCIL, council, environment
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.running_council import MODELS, Up, command_of, parents
from tests.support.waiting import wait_until


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    yield running
    running.close()


def test_up_serves_the_page_and_answers_ask(up: Up) -> None:
    with urllib.request.urlopen(up.address) as page:
        assert b"<title>" in page.read()
    outcome = council("ask", "What is a list?", "--max-tokens", "15", "--json", TMPDIR=str(up.folder))
    assert outcome.code == 0, outcome.said
    assert [member["model"] for member in outcome.lines[-1]["members"]] == MODELS.split(",")
    sessions = msgspec.json.decode(council("sessions", "--json", TMPDIR=str(up.folder)).out)
    assert [(found["session"], found["status"]) for found in sessions] == [(outcome.lines[-1]["session"], "ended")]
    assert outcome.lines[-1]["session"] in council("sessions", TMPDIR=str(up.folder)).out
    roles = [found["role"] for found in up.status()["processes"]]
    assert sorted(roles) == ["aggregator", "council", "decipher", "producer", "producer", "recorder", "replay", "web"]
    shown = council("status", TMPDIR=str(up.folder)).out
    assert "aggregator" in shown
    assert "Losses since the start of the processes: " in shown


def test_the_command_in_the_message_of_up_works(up: Up) -> None:
    advised = up.text().partition("from another terminal: ")[2].splitlines()[0]
    done = subprocess.run(
        ["sh", "-c", f"{advised} --max-tokens 3"],
        env=up.environment, cwd=up.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (advised, done.stderr)


def test_a_refused_page_is_reported_once_with_the_setting_to_add(tmp_path: Path) -> None:
    """Its sockets are closed without a reason that the page could show. "null" without a token is warned of."""

    def open_socket(origin: str) -> None:
        request = urllib.request.Request(f"{up.address}/ws", headers={"Origin": origin, "Upgrade": "websocket"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)

    expected = (
        'council: A page of http://localhost:5173 was refused; if you trust it, add "http://localhost:5173" to the '
        'setting origins, as in origins = ["http://localhost:5173"].\n'
    )
    with contextlib.closing(Up(tmp_path, COUNCIL_ORIGINS='["null"]')) as up:
        warning = 'origins contains "null" and there is no token: every web page that you open can use this council'
        assert up.text().count(warning) == 1
        open_socket("http://localhost:5173")
        wait_until(lambda: expected in up.text(), "the refused page is reported")
        (web,) = up.pids("web")
        os.kill(web, signal.SIGKILL)
        wait_until(lambda: [pid for pid in up.pids("web") if pid != web], "the web process is started again")
        open_socket("http://localhost:5173")
        open_socket("http://\u009b31m")
        open_socket("https://other.example")
        wait_until(lambda: 'add "https://other.example"' in up.text(), "the second refused page is reported")
        request = urllib.request.Request(f"{up.address}/healthz", headers={"Host": "council.lan"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)
        wait_until(lambda: "A request to http://council.lan was refused" in up.text(), "the refused host is reported")
        assert up.text().count("was refused") == 3
        assert "\u009b" not in up.text()


def test_the_default_port_moves_to_the_next_free_one(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # in use by another program is as good
            stack.enter_context(socket.create_server(("127.0.0.1", 8145)))
        up = stack.enter_context(contextlib.closing(Up(tmp_path, default_port=True)))
        port = int(up.address.rpartition(":")[2])
        assert port in range(8146, 8145 + MOST_PORTS)
        assert f"council: Port 8145 is in use; the page listens on port {port}.\n" in up.text()
        with urllib.request.urlopen(up.address) as page:
            assert b"<title>" in page.read()


def test_the_search_for_a_free_port_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.web.door.listening.MOST_PORTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=rf"Ports {port} to {port} are all in use .*--port"):
            bind_from("127.0.0.1", port)


def test_up_uses_a_named_redis_and_leaves_it_running(redis: RedisServer, tmp_path: Path) -> None:
    with contextlib.closing(Up(tmp_path, "--redis-url", redis.url)) as up:
        assert list(tmp_path.iterdir()) == []
        outcome = council("ask", "hi", "--max-tokens", "5", "--redis-url", redis.url)
        assert outcome.code == 0, outcome.said
        up.process.terminate()
        assert up.process.wait(5) == 0
    assert redis.run("PING") == b"PONG"
    assert redis.run("KEYS", "council:process:*") == []


def test_up_and_ask_work_beside_process_records_of_another_client(redis: RedisServer, tmp_path: Path) -> None:
    """Records with an unknown role, a list in `detail`, and of a council with an unknown tier."""
    record = {"name": "x", "host": "h", "pid": 1, "started_ms": 1, "ready": True, "rss_bytes": 1, "cpu_s": 1.0}
    foreign = [
        record | {"role": "oracle", "detail": {}},
        record | {"role": "producer", "detail": {"model": ["a"]}},
        record | {"role": "council", "detail": {"tier": "huge", "models": 7, "members": "{", "tiers": "[]"}},
    ]
    for number, content in enumerate(foreign):
        redis.run("SET", keys.process(f"x{number}"), msgspec.json.encode(content), "EX", 600)
        redis.run("ZADD", keys.PROCESSES, 2**50, f"x{number}")
    redis.run("EXPIRE", keys.PROCESSES, 600)
    with contextlib.closing(Up(tmp_path, "--redis-url", redis.url)) as up:
        outcome = council("ask", "hi", "--max-tokens", "5", "--json", "--redis-url", redis.url)
        assert outcome.code == 0, outcome.said
        assert [member["model"] for member in outcome.lines[-1]["members"]] == MODELS.split(",")
        assert council("status", "--redis-url", redis.url).code == 0
        up.process.terminate()
        assert up.process.wait(5) == 0
        assert "Traceback" not in up.text()
    redis.run("DEL", keys.PROCESSES, *(keys.process(f"x{number}") for number in range(3)))


def test_a_role_that_dies_while_redis_is_away_works_again_when_redis_is_back(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    with contextlib.closing(Up(tmp_path, "--redis-url", own_redis.url)) as up:
        (aggregator,) = [pid for pid in up.family() if command_of(pid).rstrip().endswith("-m aggregator")]
        own_redis.kill()
        os.kill(aggregator, signal.SIGKILL)
        wait_until(lambda: "aggregator was killed" in up.text(), "the supervisor reports it")

        def is_back() -> bool:
            return any(command_of(pid).rstrip().endswith("-m aggregator") for pid in up.family() - {aggregator})

        wait_until(is_back, "the aggregator waits for Redis")
        own_redis.start()

        def answers() -> bool:
            return council("ask", "hi", "--max-tokens", "5", "--redis-url", own_redis.url).code == 0

        wait_until(answers, "the council answers again", 60)
        assert "not started again" not in up.text()


def test_an_ask_ends_with_its_council(up: Up) -> None:
    asking = subprocess.Popen(
        [*COUNCIL, "ask", "hi", "--temperature", "0"],  # the answer uses all its tokens
        env=up.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: any(found["window_index"] > 10 for found in up.status()["sessions"]), "the session runs")
    up.process.terminate()
    out, err = asking.communicate(timeout=10)
    assert asking.returncode == 1
    assert err == "council: The council has ended.\n"
    # The summary has the text until then.
    assert '"frames":' in out.splitlines()[-1]


def test_a_closed_terminal_ends_the_council(tmp_path: Path) -> None:
    """Without a hangup signal, which make does not pass on: the process checks its terminal."""
    ours, theirs = os.openpty()
    command = " ".join([*COUNCIL, "up", "--no-open", "--port", "0", "--models", "ngram:bpe-2"])
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' HUP; exec {command}"], env=environment(TMPDIR=str(tmp_path)),
        stdin=subprocess.DEVNULL, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    messages = b""
    while b"Ctrl-C ends it" not in messages:
        messages += os.read(ours, 4096)
    os.close(ours)
    process.wait(10)
    wait_until(lambda: not list(tmp_path.iterdir()), "the temporary folder is gone", 10)


@pytest.fixture
def slow_up(tmp_path: Path) -> Iterator[Up]:
    """At two tokens per second an answer takes longer than the commands of the test on a busy machine."""
    running = Up(tmp_path, tokens_per_s=2)
    yield running
    running.close()


def test_stop_ends_a_session_and_its_text_stays(slow_up: Up) -> None:
    up = slow_up
    asking = subprocess.Popen([*COUNCIL, "ask", "hi", "--json"], env=up.environment, stdout=subprocess.PIPE)
    assert asking.stdout is not None
    session = msgspec.json.decode(asking.stdout.readline())["session"]
    wait_until(lambda: any(up.status()["sessions"]), "the session is open")
    (cursors,) = up.status()["sessions"]
    assert cursors["session"] == session
    assert cursors["aggregator_lag"] < 60
    council("stop", session, "--member", "2", TMPDIR=str(up.folder)).assert_refused("members: 0 ngram:word-3, 1")
    outcome = council("stop", session, "--member", "ngram:char-6", TMPDIR=str(up.folder))
    assert (outcome.code, outcome.said) == (0, f"council: Member ngram:char-6 of session {session} is stopped.\n")
    # The other member continues, unless it has just finished.
    outcome = council("stop", session, TMPDIR=str(up.folder))
    assert outcome.code == 0, outcome.said
    out, _ = asking.communicate(timeout=10)
    summary = msgspec.json.decode(out.splitlines()[-1])
    assert summary["members"][1]["reason"] == "cancelled"
    assert summary["members"][0]["reason"] in ("cancelled", "stop")
    council("stop", session, TMPDIR=str(up.folder)).assert_said("had ended before")
    assert council("stop", "nosuchsession", TMPDIR=str(up.folder)).code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_within_five_seconds(up: Up, number: signal.Signals) -> None:
    family = up.family()
    assert len(family) >= 7
    up.process.send_signal(number)
    began = time.monotonic()
    assert up.process.wait(10) == 0
    assert time.monotonic() - began < 5.0
    assert not family & set(parents())
    assert list(up.folder.iterdir()) == []
    assert "Traceback" not in up.text()


def test_killing_the_supervisor_ends_everything_within_ten_seconds(up: Up) -> None:
    """SIGKILL: no process, socket or temporary folder is left."""
    family = up.family()
    up.process.kill()
    up.process.wait()
    wait_until(lambda: not family & set(parents()), "all processes are gone", 10)
    wait_until(lambda: not list(up.folder.iterdir()), "the temporary folder is gone", 10)
    assert "Traceback" not in up.text()


@pytest.mark.parametrize("role", ["aggregator", "producer", "decipher", "web"])
def test_a_role_that_is_killed_is_started_again(up: Up, role: str) -> None:
    victim = up.pids(role)[0]
    os.kill(victim, signal.SIGKILL)

    def is_mended() -> bool:
        ready = [found for found in up.status()["processes"] if found["role"] == role and found["ready"]]
        return victim not in [found["pid"] for found in ready] and len(ready) == (2 if role == "producer" else 1)

    wait_until(is_mended, f"{role} is back")
    assert f"{role}" in up.text()
    assert "was killed by SIGKILL; starting it again" in up.text()
    assert council("ask", "hi", "--max-tokens", "5", TMPDIR=str(up.folder)).code == 0
    with urllib.request.urlopen(up.address) as page:
        assert page.status == 200


def test_a_death_and_a_stop_end_the_wait_of_the_supervisor_at_once(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "_LOOK_S", 600.0)
    tier, messages = next(iter(TIERS.values())), list[str]()
    supervisor = Supervisor(CouncilPlan({}, tier, {tier.name: tier}, redis_url=redis.url), messages.append)

    def aggregators() -> list[int]:
        own = [pid for pid, parent in parents().items() if parent == os.getpid()]
        return [pid for pid in own if command_of(pid).rstrip().endswith("-m aggregator")]

    try:
        supervisor.start()
        running = threading.Thread(target=supervisor.run, daemon=True)
        running.start()
        (first,) = aggregators()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: messages, "the death is noticed")
        assert "aggregator was killed by SIGKILL" in messages[0]
        wait_until(lambda: [pid for pid in aggregators() if pid != first], "the aggregator is started again")
        supervisor.stop()
        running.join(30)
        assert not running.is_alive()
    finally:
        supervisor.end()


def test_a_private_redis_that_is_killed_is_started_again(up: Up) -> None:
    (keeper,) = [pid for pid in up.family() if command_of(pid).count("council.running.keeper")]
    (server,) = [pid for pid, parent in parents().items() if parent == keeper]
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: any(p == keeper and pid != server for pid, p in parents().items()), "the server is back")

    def answers() -> bool:
        return council("ask", "hi", "--max-tokens", "5", TMPDIR=str(up.folder)).code == 0

    wait_until(answers, "the council answers again")


def test_the_server_of_a_killed_keeper_ends_and_both_are_started_again(up: Up) -> None:
    (keeper,) = [pid for pid in up.family() if command_of(pid).count("council.running.keeper")]
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: "keeper of the private Redis died" in up.text(), "the supervisor reports it")

    def answers() -> bool:
        return council("ask", "hi", "--max-tokens", "5", TMPDIR=str(up.folder)).code == 0

    wait_until(answers, "the council answers again")


def test_the_next_start_removes_the_folder_of_a_killed_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    old, foreign = new_socket_folder(str(os.getuid())), new_socket_folder(str(os.getuid()))
    (old / "lock").touch()
    foreign.chmod(0o755)
    with contextlib.closing(Up(tmp_path)):
        assert not old.exists()
        assert foreign.exists()
    foreign.rmdir()


ROLES = (["producers", "ngram:char-6"], ["aggregator"], ["consumers.decipher"], ["consumers.web", "--port", "0"])


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role[0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_role_alone_ends_at_a_signal_and_removes_its_record(
    redis: RedisServer, roles: Roles, role: list[str], number: signal.Signals
) -> None:
    running = roles.ready(*role)
    assert running.end(number) == 0
    assert "Traceback" not in running.log()
    assert redis.run("KEYS", "council:process:*") == []


def test_help_names_every_command_and_flag() -> None:
    help_text = council("--help").out
    for command in ("up", "ask", "stop", "sessions", "status"):
        assert command in help_text
    ask_help = council("ask", "--help").out
    for flag in ("--models", "--weights", "--tier", "--system", "--max-tokens", "--seed", "--temperature", "--json"):
        assert flag in ask_help
    assert "--weighting" in ask_help
    up_help = council("up", "--help").out
    for flag in ("--tier", "--models", "--host", "--port", "--redis-url", "--no-open"):
        assert flag in up_help


def test_a_signal_at_any_moment_ends_the_council(redis: RedisServer) -> None:
    """A handler runs between any two lines of the thread that it interrupts: were a lock taken in both, the council
    would wait for itself forever. Here the signal arrives at every line that has one more frame below run()."""
    tier = next(iter(TIERS.values()))
    supervisor = Supervisor(CouncilPlan({}, tier, {tier.name: tier}, redis_url=redis.url), lambda sentence: None)
    stopped_at: list[str] = []

    def interrupt(frame: FrameType, event: str, _argument: object) -> object:
        if frame.f_code.co_filename == threading.__file__ or frame.f_code.co_name == "_watch":
            stopped_at.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            sys.settrace(None)
            supervisor.stop()
            sys.settrace(interrupt)
        return interrupt

    def run() -> None:
        sys.settrace(interrupt)
        supervisor.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), f"it waits for itself since {stopped_at[-1:]}"
    assert stopped_at
