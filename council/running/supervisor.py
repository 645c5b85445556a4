"""The supervisor: it keeps one process for each model, an aggregator, DECIPHER and the web running.

    Supervisor --stdin pipes--> keeper of a private Redis (unless a Redis was named)
                           \\--> producers, aggregator, consumers.decipher, consumers.web

When the supervisor ends, every pipe ends, and with it every child; the keeper removes the private folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from council.running.children import Child
from council.running.keeper import NO_SERVER, find_server, folder_of
from council.running.model_news import ModelNews
from council.running.origin_news import OriginNews
from producers.source import ModelSource, ProducerOrder
from runtime.environment import DEFAULT_DRAIN_S
from schemas.errors import RedisAway, Refused, Unavailable
from schemas.rules.tiers import TierPolicy
from schemas.sessions import MemberSpec, NamedCouncil
from transport.redis.connection import Pipe
from transport.register import RENEW_S, ProcessRegistration, read_processes, ready_pids

_REDIS_START_S = 15.0
_READY_S = 90.0
# How often it looks for a closed terminal, and for dead children on systems that do not report them at once.
_LOOK_S = 1.0
# A council ends within five seconds: this is the share of the roles, and of Redis.
_ROLES_END_S = 3.0
_REDIS_END_S = 1.0
# The interval of looks while something starts or ends.
_WATCH_S = 0.05


class RecordingPlan(msgspec.Struct, frozen=True):
    """Which sessions are recorded (off, asked or all), into which folder, up to how many gigabytes; with text or
    numbers only."""

    record: str
    folder: str
    limit_gb: float
    text: bool = True


class CouncilPlan(msgspec.Struct, frozen=True):
    """The content of a council. `models` maps each model to its source; `members` answer where a request names none
    (empty: one member for each model), and those of one of the `councils` where it names that. `tiers` are all tiers,
    `tier` is the one it runs in. A private council is found by its caller only; a warmed one loads its models at the
    start. The page listens on `host`; clients must send the `token`, and pages of `origins` may use it. Without
    `recording` there is no library."""

    models: dict[str, ModelSource]
    tier: TierPolicy
    tiers: dict[str, TierPolicy]
    limits: dict[str, int] = {}
    redis_url: str | None = None
    ngram_tokens_per_s: float | None = None
    drain_s: float = DEFAULT_DRAIN_S
    is_private: bool = False
    is_warmed: bool = False
    host: str = "127.0.0.1"
    token: str | None = None
    origins: list[str] = []
    members: tuple[MemberSpec, ...] = ()
    councils: tuple[NamedCouncil, ...] = ()
    recording: RecordingPlan | None = None


class Supervisor:
    """Starts, watches and ends the processes of a plan. `say` receives one sentence for the user at a time."""

    def __init__(self, plan: CouncilPlan, say: Callable[[str], None], web_socket: socket.socket | None = None) -> None:
        self._plan, self._say = plan, say
        self._web_socket = web_socket
        self._keeper: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._children: list[Child] = []
        self._is_asked_to_stop = False
        # A byte in the sender ends the wait on the receiver.
        self._stop_sender, self._stop_receiver = socket.socketpair()
        self._stop_sender.setblocking(False)
        self._news = ModelNews(plan.models) if plan.is_warmed else None
        self._origin_news = OriginNews()
        self._is_running = False
        self._ended = threading.Event()
        self.redis_url = plan.redis_url or ""

    def start(self) -> None:
        """Starts all processes and waits until they are ready. Raises Unavailable where one does not start."""
        if not self.redis_url:
            self.redis_url = self._start_keeper()
        self._children = self._planned_children()
        for child in self._children:
            child.start()
        threading.Thread(target=self._keep_record, daemon=True).start()
        self._wait_until_ready()

    def stop(self, *_: object) -> None:
        """Asks run() to return; may be called from a signal handler."""
        # It takes no lock: the signal may arrive while this thread holds the lock, and it would wait forever.
        self._is_asked_to_stop = True
        with contextlib.suppress(OSError):
            self._stop_sender.send(b".")

    @property
    def models(self) -> tuple[str, ...]:
        """The models whose producers run."""
        ended = {child.name for child in self._children if child.gave_up}
        return tuple(model for model in self._plan.models if f"producer {model}" not in ended)

    @property
    def members(self) -> tuple[str, ...]:
        """The members that answer where a request names none, if their producers run."""
        models = self.models
        own = tuple(spec.display_name for spec in self._plan.members if spec.model in models)
        return own or models

    @property
    def is_stopping(self) -> bool:
        return self._is_asked_to_stop

    def run(self, is_abandoned: Callable[[], bool] = lambda: False) -> None:
        """Keeps the children running until stop() is called or `is_abandoned` returns True.

        Raises Unavailable where the private Redis cannot be started again.
        """
        self._is_running = True
        while not self._is_asked_to_stop and not is_abandoned():
            self._wait()
            self._watch()

    def end(self) -> None:
        """Ends all processes, within five seconds. Without draining: no other process would go on with the answers."""
        self._is_asked_to_stop = True
        self._ended.set()
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + _ROLES_END_S
        for child in self._children:
            child.wait_or_kill(deadline)
        self._end_keeper()
        self._stop_sender.close()
        self._stop_receiver.close()

    def _wait(self) -> None:
        """Waits for stop(), for a dead child, or for a second."""
        if any(child.is_waiting for child in self._children):
            time.sleep(_WATCH_S)
            return
        events = select.poll()
        events.register(self._stop_receiver, select.POLLIN)
        inputs = [*(child.input for child in self._children), self._keeper.stdin if self._keeper else None]
        lifelines = [end.fileno() for end in inputs if end]
        for lifeline in lifelines:
            events.register(lifeline, 0)
        if any(fd in lifelines for fd, _ in events.poll(_LOOK_S * 1_000)):
            time.sleep(_WATCH_S)  # a process that has closed its input has not ended yet

    def _watch(self) -> None:
        for child in self._children:
            child.watch()
        if self._keeper and self._keeper.poll() is not None:
            self._say("The keeper of the private Redis died; starting it again. Running sessions are lost.")
            self.redis_url = self._start_keeper()

    def _start_keeper(self) -> str:
        """Starts the private Redis; returns its URL. When it is started again, it keeps its folder."""
        if find_server() is None:
            raise Refused("no_redis", NO_SERVER)
        folder = ["--folder", str(self._folder)] if self._folder else []
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "council.running.keeper", *folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | self._without_keys(), process_group=0,
        )  # fmt: skip
        assert self._keeper.stdout is not None
        readable, _, _ = select.select([self._keeper.stdout], [], [], _REDIS_START_S)
        line = self._keeper.stdout.readline() if readable else b""
        if not line:
            self._end_keeper()
            raise Unavailable("The private Redis did not start; name one that runs with --redis-url.")
        url = str(json.loads(line)["url"])
        self._folder = folder_of(url)
        return url

    def _end_keeper(self) -> None:
        keeper = self._keeper
        if keeper is None:
            return
        assert keeper.stdin is not None
        with contextlib.suppress(OSError):
            keeper.stdin.close()
        try:
            keeper.wait(_REDIS_END_S)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _without_keys(self) -> dict[str, str]:
        """Empty variables in place of the secrets: each secret is given only to the process that needs it."""
        keys = {source.key_env: "" for source in self._plan.models.values() if source.key_env}
        return keys | {"COUNCIL_TOKEN": "", "COUNCIL_TOKEN_FILE": ""}

    def _planned_children(self) -> list[Child]:
        plan = self._plan
        environment = {
            "REDIS_URL": self.redis_url,
            "COUNCIL_TIER": plan.tier.name,
            "COUNCIL_TIER_POLICIES": msgspec.json.encode(plan.tiers).decode(),
            "COUNCIL_LIMITS": json.dumps(plan.limits),
            "COUNCIL_DRAIN_S": str(plan.drain_s),
        }
        environment |= self._without_keys()
        # It is also the first to end: a council that ends does not close its sessions, least of all with the failures
        # that its ending producers report.
        children = [Child("aggregator", ["aggregator"], environment, self._say)]
        for model, source in plan.models.items():
            tokens_per_s = plan.ngram_tokens_per_s if source.api == "ngram" else None
            order = ProducerOrder(model, source, plan.is_warmed, tokens_per_s)
            words = ["producers", *order.as_arguments()]
            own = {name: os.environ.get(name, "") for name in (source.key_env,) if name}
            children.append(Child(f"producer {model}", words, environment | own, self._say))
        if self._web_socket is not None:
            children.append(Child("decipher", ["consumers.decipher"], environment, self._say))
            fd = self._web_socket.fileno()
            self._web_socket.set_inheritable(True)
            words = ["consumers.web", "--fd", str(fd), "--host", plan.host]
            own = {"COUNCIL_TOKEN": plan.token or "", "COUNCIL_ORIGINS": json.dumps(plan.origins)}
            if plan.recording:
                own["COUNCIL_RECORDINGS"] = plan.recording.folder
                children += self._library_children(plan.recording, environment)
            children.append(Child("web", words, environment | own, self._say, [fd]))
        return children

    def _library_children(self, recording: RecordingPlan, environment: dict[str, str]) -> list[Child]:
        """The process that replays recordings, and the one that makes them."""
        folder = {"COUNCIL_RECORDINGS": recording.folder}
        own = {
            "COUNCIL_RECORD": recording.record,
            "COUNCIL_RECORDINGS_GB": str(recording.limit_gb),
            "COUNCIL_RECORD_TEXT": "true" if recording.text else "false",
        }
        replay = Child("replay", ["producers.replay"], environment | folder, self._say)
        if recording.record == "off":
            return [replay]
        return [replay, Child("recorder", ["consumers.recorder"], environment | folder | own, self._say)]

    def _wait_until_ready(self) -> None:
        pipe, deadline = Pipe(self.redis_url), time.monotonic() + _READY_S
        try:
            while not self._is_asked_to_stop:
                time.sleep(_WATCH_S)
                self._watch()
                waiting = [child for child in self._children if not child.gave_up]
                if not waiting:
                    raise Unavailable("No process of the council could be started: see the messages above.")
                with contextlib.suppress(RedisAway):
                    ready = ready_pids(pipe)
                    if all(child.pid in ready for child in waiting):
                        return
                if time.monotonic() > deadline:
                    names = ", ".join(child.name for child in waiting)
                    raise Unavailable(f"The council was not ready within {_READY_S:g} s (it waits for {names}).")
        finally:
            pipe.close()

    def _keep_record(self) -> None:
        """Renews the council's own record, with its tier and its models in order of preference, and reports news of the
        models and of refused pages and hosts. In a thread of its own: the thread that watches the children must not
        wait for Redis."""
        plan = self._plan
        policies = msgspec.json.encode(plan.tiers).decode()
        registration = ProcessRegistration(
            "council", tier=plan.tier.name, tiers=policies, models=",".join(plan.models), private=plan.is_private,
            members=msgspec.json.encode(plan.members).decode(), councils=msgspec.json.encode(plan.councils).decode(),
        )  # fmt: skip
        registration.ready = True
        pipe = Pipe(self.redis_url)
        while not self._ended.is_set():
            with contextlib.suppress(RedisAway):
                pipe.run(registration.renew())
                if self._news and self._is_running:
                    records = read_processes(pipe)
                    pids = {child.pid for child in self._children}
                    own = [record for record in records if record.host == registration.host and record.pid in pids]
                    for sentence in self._news.sentences(records) + self._origin_news.sentences(own):
                        self._say(sentence)
            self._ended.wait(RENEW_S)
        with contextlib.suppress(RedisAway):
            pipe.run(registration.leave())
        pipe.close()
