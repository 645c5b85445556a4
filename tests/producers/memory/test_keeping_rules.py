"""The pure state of a model's residency, with a simulated world: three processes, two memories, one Redis.

Replies come in any order that one connection allows, or not at all; servers fail, and drop models by themselves.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.backend import BackendFailed, OutOfMemory, Resident
from producers.memory.loaded import UNLOADED_WITHIN_MS
from producers.memory.loading import STUCK_MS
from producers.memory.procedures import ASK_AGAIN_MS, AT_SERVER, MemoryCommand
from producers.memory.residency import KEEP_WARM_MS, LOOK_MS, RENEW_MS, ModelResidency, Waiter
from schemas.models import IN_PROCESS, ModelFacts, facts_in
from schemas.processes import ProcessRecord
from schemas.rules.tiers import GB, TIERS, TierPolicy
from transport.residency import EVICTION_MS, LOADER_MS, USE_MS

SERVER, HOST = "http://127.0.0.1:11434", "here"
HIGH = TIERS["high"]
ONE = msgspec.structs.replace(HIGH, max_loaded_models=1)
FACTS = (
    ModelFacts("a", SERVER, size_bytes=1 * GB),
    ModelFacts("b", SERVER, size_bytes=2 * GB),
    ModelFacts("c", IN_PROCESS, size_bytes=3 * GB, held_by="p2"),
)


class Process:
    """A process of one model: its state, the commands on their way, and what its sessions wait for."""

    def __init__(self, world: World, number: int, tier: TierPolicy) -> None:
        self.world, self.name, self.known = world, f"p{number}", FACTS[number]
        self.residency = ModelResidency(self.name, HOST, self.known, tier)
        self.to_redis: deque[MemoryCommand] = deque()
        self.to_server: list[MemoryCommand] = []
        self.sessions = 0
        # The commands that its server does not answer for now.
        self.stuck: tuple[str, ...] = ()
        # What each session waits for, None where that has ended.
        self.waiting: dict[str, Waiter | None] = {}
        self.outcomes: list[Exception | None] = []

    def turn(self) -> None:
        for command in self.residency.due(self.world.now_ms):
            if command.kind == "load":
                self.world.check_may_load(self)
            (self.to_server.append if command.kind in AT_SERVER else self.to_redis.append)(command)
        # The keeper cancels what nothing waits for any more.
        self.to_server = [command for command in self.to_server if self.residency.is_awaited(command)]
        assert len(self.to_redis) + len(self.to_server) < 40

    def ask_redis(self, *, executes: bool = True, answers: bool = True) -> None:
        if self.to_redis:
            command = self.to_redis.popleft()
            reply = self.world.execute(self, command) if executes else None
            if executes and answers:
                self.residency.take(command, reply, self.world.now_ms)
            else:
                self.residency.ask_again(command, self.world.now_ms)

    def ask_server(self, failure: Exception | None = None) -> None:
        answered = [command for command in self.to_server if command.kind not in self.stuck]
        if answered:
            command = answered[0]
            self.to_server.remove(command)
            reply: Any = failure or self.world.serve(self, command)
            self.residency.take(command, reply, self.world.now_ms)

    def open_session(self) -> None:
        self.sessions += 1
        user = f"{self.name} s{self.sessions}"
        self.waiting[user] = None

        def begun(error: Exception | None) -> None:
            assert error is None
            if self.residency.record.is_seen:
                self.outcomes.append(None)
                return

            def end(error: Exception | None) -> None:
                self.waiting[user] = None
                self.outcomes.append(error)

            self.waiting[user] = waiter = Waiter(lambda _sign: None, end)
            self.residency.join(waiter)

        self.residency.begin_use(user, begun)

    def end_session(self) -> None:
        if self.waiting:
            user, waiter = self.waiting.popitem()
            if waiter:
                self.residency.leave(waiter)
            self.to_redis.append(self.residency.end_use(user, self.world.now_ms))


class World:
    """The state outside of the processes. A time in Redis is the end of a use, an eviction or a lease."""

    def __init__(self, tier: TierPolicy = HIGH) -> None:
        self.now_ms = 1_000_000
        self.uses: dict[tuple[tuple[str, str], str], int] = {}
        self.evicting: dict[tuple[str, str], int] = {}
        self.evictions: dict[tuple[str, str], int] = {}
        self.leave: dict[tuple[str, str], int] = {}
        self.loader = ("", 0)
        self.orders: dict[str, str] = {}
        self.records: dict[str, ProcessRecord] = {}
        self.memory: dict[tuple[str, str], int] = {}
        self.processes = [Process(self, number, tier) for number in range(3)]
        for process in self.processes:
            self.publish(process)

    def publish(self, process: Process) -> None:
        detail = process.residency.record.detail
        self.records[process.name] = ProcessRecord(process.name, "producer", HOST, 1, 0, True, 0, 0.0, detail)

    def check_may_load(self, process: Process) -> None:
        holder, until = self.loader
        assert holder == process.name
        assert until > self.now_ms

    def is_used(self, key: tuple[str, str]) -> bool:
        return any(used == key and until > self.now_ms for (used, _), until in self.uses.items())

    def execute(self, process: Process, command: MemoryCommand) -> Any:
        key = command.memory_key
        match command.kind:
            case "use":
                if self.evicting.get(key, 0) > self.now_ms:
                    return 0
                self.uses[key, command.user] = self.now_ms + USE_MS
                return 1 + self.evictions.get(key, 0)
            case "end_use":
                self.uses.pop((key, command.user), None)
            case "begin_eviction":
                if self.is_used(key):
                    return 0
                self.evicting[key] = self.now_ms + EVICTION_MS
                self.evictions[key] = self.evictions.get(key, 0) + 1
                return 1
            case "end_eviction":
                self.evicting.pop(key, None)
            case "hold_loader":
                holder, until = self.loader
                if holder != process.name and until > self.now_ms:
                    return 0
                self.loader = (process.name, self.now_ms + LOADER_MS)
                return 1
            case "release_loader":
                if self.loader[0] == process.name:
                    self.loader = ("", 0)
            case "ask_to_leave":
                self.leave[key] = self.now_ms + command.within_ms
            case "end_asking":
                self.leave.pop(key, None)
            case "read_records":
                return list(self.records.values())
            case "read_uses":
                return frozenset(used for (used, _), until in self.uses.items() if until > self.now_ms)
            case "take_order":
                return self.orders.pop(process.known.model, None)
            case "take_request_to_leave":
                return self.leave.pop(key, 0) > self.now_ms
            case "publish":
                self.publish(process)
        return 0

    def serve(self, process: Process, command: MemoryCommand) -> Any:
        key = command.memory_key
        if command.kind == "look":
            residents = [Resident(name, size, 0) for (where, name), size in self.memory.items() if where == key[0]]
            return residents, process.known
        if command.kind == "load":
            self.memory[process.known.memory_key] = process.known.size_bytes
        else:
            assert not self.is_used(key), f"{key} is unloaded while it is in use"
            self.memory.pop(key, None)
        return None

    def calm(self, ms: int) -> None:
        """Time in which everything that is not stuck answers at once."""
        for _ in range(max(1, ms // ASK_AGAIN_MS)):
            self.now_ms += min(ms, ASK_AGAIN_MS)
            for process in self.processes:
                for _ in range(60):
                    process.turn()
                    if not process.to_redis and all(one.kind in process.stuck for one in process.to_server):
                        break
                    while process.to_redis:
                        process.ask_redis()
                    process.ask_server()


KINDS = (
    "go on", "go on", "go on", "turn", "redis", "server", "request lost", "reply lost", "open", "open", "end", "pass",
    "pass longer",
    "server fails", "server is slow", "server is full", "drop", "load", "unload",
)  # fmt: skip
actions = st.tuples(st.sampled_from(KINDS), st.integers(0, 2))


def perform(world: World, action: str, number: int) -> None:
    process = world.processes[number]
    match action:
        case "go on":
            for _ in range(8):
                process.turn()
                process.ask_redis()
                process.ask_server()
        case "turn":
            process.turn()
        case "redis":
            process.ask_redis()
        case "request lost":
            process.ask_redis(executes=False)
        case "reply lost":
            process.ask_redis(answers=False)
        case "server":
            process.ask_server()
        case "server fails":
            process.ask_server(BackendFailed("it broke off"))
        case "server is slow":
            if process.to_server and process.to_server[0].within_ms:
                process.ask_server(TimeoutError())
        case "server is full":
            if process.to_server and process.to_server[0].kind == "load":
                process.ask_server(OutOfMemory("no memory"))
        case "drop":
            if not world.is_used(process.known.memory_key):
                world.memory.pop(process.known.memory_key, None)
        case "open" | "end":
            process.open_session() if action == "open" else process.end_session()
        case "load" | "unload":
            world.orders[process.known.model] = action
        case _:
            # Renewals reach Redis in time: a process that was stopped for longer is another test.
            world.now_ms += 100 if action == "pass" else RENEW_MS
            for one in world.processes:
                one.turn()
                while one.to_redis:
                    one.ask_redis()


@given(st.lists(actions, max_size=80), st.sampled_from([HIGH, ONE]), st.booleans())
def test_no_model_in_use_is_unloaded_one_process_loads_at_a_time_and_every_wait_ends(
    performed: list[tuple[str, int]], tier: TierPolicy, is_warmed: bool
) -> None:
    """The world itself checks each load and unload; afterwards everything is given back."""
    world = World(tier)
    for process in world.processes:
        process.residency.begin(is_warmed=is_warmed)
    for action, number in performed:
        perform(world, action, number)
    for _ in range(6):
        # Sessions end one after another, so that idle models can be evicted for those that still wait.
        world.calm(12_000)
        for process in world.processes:
            done = [user for user, waiter in process.waiting.items() if waiter is None]
            for user in done:
                process.waiting.pop(user)
                process.to_redis.append(process.residency.end_use(user, world.now_ms))
    assert [process.waiting for process in world.processes] == [{}, {}, {}]
    world.calm(USE_MS)
    assert world.loader[1] <= world.now_ms
    assert not any(until > world.now_ms for until in [*world.uses.values(), *world.evicting.values()])
    assert world.leave == {}
    assert len(world.memory) <= tier.max_loaded_models
    for process in world.processes:
        is_in_memory = process.known.memory_key in world.memory
        assert facts_in(world.records[process.name].detail).residency == ("loaded" if is_in_memory else "absent")


def test_a_process_that_was_stopped_for_long_does_not_load_with_a_lost_lease() -> None:
    world = World()
    first, second, _ = world.processes
    first.open_session()
    for _ in range(3):
        first.turn()
        while first.to_redis:
            first.ask_redis()
        first.ask_server()
    assert world.loader[0] == first.name
    world.now_ms += LOADER_MS + 1
    assert world.execute(second, MemoryCommand("hold_loader")) == 1
    first.turn()
    while first.to_redis:
        first.ask_redis()
    for _ in range(20):
        first.ask_server()
        first.turn()
        while first.to_redis:
            first.ask_redis()
    assert world.memory == {}
    assert world.loader[0] == second.name


def test_the_time_to_leave_begins_when_redis_takes_the_request() -> None:
    """
    seconds   0                       12                  20
    p0        asks p2 to leave
    Redis     away ------------------ takes the request
    p2                                                    leaves
    """
    world = World(ONE)
    asking, _, holder = world.processes
    world.memory[holder.known.memory_key] = holder.known.size_bytes
    holder.residency.begin(is_warmed=False)
    world.calm(LOOK_MS + RENEW_MS)
    assert facts_in(world.records[holder.name].detail).residency == "loaded"
    world.calm(12_000)
    asking.open_session()
    for _ in range(40):
        asking.turn()
        if asking.to_redis and asking.to_redis[0].kind == "ask_to_leave":
            break
        asking.ask_redis()
        asking.ask_server()
    assert asking.to_redis[0].kind == "ask_to_leave"
    for _ in range(80):
        asking.ask_redis(executes=False)
        world.now_ms += ASK_AGAIN_MS
        asking.turn()
        while asking.to_redis and asking.to_redis[0].kind != "ask_to_leave":
            asking.ask_redis()
    asking.ask_redis()
    assert world.leave[holder.known.memory_key] == world.now_ms + UNLOADED_WITHIN_MS
    world.calm(8_000)
    assert set(world.memory) == {asking.known.memory_key}
    assert asking.outcomes == [None]


def test_a_load_gives_back_at_once_what_it_holds() -> None:
    """One model at a time: b replaces a at its server, c asks b's process to leave, and a asks c's."""
    world = World(ONE)
    for process in world.processes:
        process.residency.begin(is_warmed=False)
    for number in (0, 1, 2, 0):
        process = world.processes[number]
        process.open_session()
        world.calm(14_000)
        assert set(world.memory) == {process.known.memory_key}
        assert (world.loader, world.evicting, world.leave) == (("", 0), {}, {})
        process.end_session()
        # A record is true at the latest after the next look.
        world.calm(LOOK_MS + RENEW_MS)
        shown = [facts_in(record.detail).residency for record in world.records.values()]
        assert shown == ["loaded" if other is process else "absent" for other in world.processes]
    assert [process.outcomes for process in world.processes] == [[None, None], [None], [None]]


def test_a_use_and_an_eviction_last_as_long_as_the_answer_and_the_unload() -> None:
    world = World(ONE)
    first, second, _ = world.processes
    first.open_session()
    world.calm(1_000)
    second.open_session()
    for _ in range(20):
        world.calm(1_000)
        assert world.is_used(first.known.memory_key)
        assert set(world.memory) == {first.known.memory_key}
    second.stuck = ("unload",)
    first.end_session()
    world.calm(1_000)
    for _ in range(8):
        world.calm(1_000)
        assert world.evicting[first.known.memory_key] > world.now_ms
    first.open_session()
    world.calm(500)
    assert not world.is_used(first.known.memory_key)
    second.stuck = ()
    world.calm(200)
    assert second.known.memory_key in world.memory


def test_a_model_that_another_process_evicted_is_loaded_again() -> None:
    """Its own process saw it loaded before, and has not looked since."""
    world = World(ONE)
    first, second, _ = world.processes
    first.open_session()
    world.calm(1_000)
    first.end_session()
    second.open_session()
    world.calm(12_000)
    assert set(world.memory) == {second.known.memory_key}
    second.end_session()
    assert first.residency.record.is_seen
    first.open_session()
    world.calm(12_000)
    assert set(world.memory) == {first.known.memory_key}


def test_the_last_session_that_leaves_ends_the_load_and_releases_the_lease() -> None:
    world = World()
    process = world.processes[0]
    process.stuck = ("load",)
    process.open_session()
    process.open_session()
    world.calm(1_000)
    process.end_session()
    world.calm(1_000)
    assert [command.kind for command in process.to_server] == ["load"]
    assert world.loader[0] == process.name
    process.end_session()
    world.calm(200)
    assert process.to_server == []
    assert world.loader == ("", 0)


def test_an_ordered_model_is_loaded_although_it_was_seen_in_memory() -> None:
    world = World()
    process = world.processes[0]
    process.residency.begin(is_warmed=False)
    process.open_session()
    world.calm(1_000)
    process.end_session()
    world.memory.clear()
    world.orders["a"] = "load"
    world.calm(2_000)
    assert set(world.memory) == {process.known.memory_key}


def test_an_order_to_unload_ends_no_load_and_evicts_no_model_in_use() -> None:
    world = World()
    process = world.processes[0]
    process.residency.begin(is_warmed=False)
    process.stuck = ("load",)
    process.open_session()
    world.calm(1_000)
    world.orders["a"] = "unload"
    world.calm(2_000)
    assert world.orders == {}
    assert "unload" not in [command.kind for command in process.to_server]
    process.stuck = ()
    world.orders["a"] = "unload"
    world.calm(4_000)
    assert set(world.memory) == {process.known.memory_key}
    process.end_session()
    world.orders["a"] = "unload"
    world.calm(2_000)
    assert world.memory == {}


def test_a_request_to_leave_ends_no_load() -> None:
    world = World()
    process = world.processes[0]
    process.residency.begin(is_warmed=False)
    process.stuck = ("load",)
    world.orders["a"] = "load"
    world.calm(2_000)
    world.leave[process.known.memory_key] = world.now_ms + UNLOADED_WITHIN_MS
    world.calm(2_000)
    assert [command.kind for command in process.to_server] == ["load"]
    assert (world.leave, world.evictions) == ({}, {})


def test_a_request_to_leave_that_is_not_followed_is_taken_back() -> None:
    """The process that has c does not react; by its record c is loaded."""
    world = World(ONE)
    asking, _, holder = world.processes
    loaded = msgspec.structs.replace(holder.known, residency="loaded")
    world.records[holder.name] = msgspec.structs.replace(world.records[holder.name], detail=loaded.as_detail())
    asking.open_session()
    world.calm(1_000)
    assert set(world.leave) == {holder.known.memory_key}
    asked = []
    for _ in range(UNLOADED_WITHIN_MS // ASK_AGAIN_MS + 2):
        world.calm(ASK_AGAIN_MS)
        asked.append(bool(world.leave))
    assert asked.count(False) == 1
    assert world.memory == {}


def test_a_look_that_is_older_than_an_unload_changes_nothing() -> None:
    world = World()
    process = world.processes[0]
    process.residency.begin(is_warmed=False)
    process.open_session()
    world.calm(1_000)
    process.end_session()
    process.stuck = ("look",)
    world.calm(LOOK_MS)
    (look,) = process.to_server
    world.orders["a"] = "unload"
    world.calm(2_000)
    assert world.memory == {}
    process.residency.take(look, ([Resident("a", GB, 0)], process.known), world.now_ms)
    assert not process.residency.record.is_seen
    assert process.residency.record.facts.residency == "absent"


def test_a_model_that_was_seen_and_not_evicted_since_needs_no_look() -> None:
    world = World()
    process = world.processes[0]
    process.open_session()
    world.calm(1_000)
    process.end_session()
    process.stuck = AT_SERVER
    process.open_session()
    world.calm(200)
    assert process.outcomes == [None, None]
    assert process.to_server == []


def test_after_a_failed_look_the_model_is_absent_and_the_reason_is_in_its_record() -> None:
    world = World()
    process = world.processes[0]
    process.residency.begin(is_warmed=False)
    process.open_session()
    world.calm(1_000)
    process.stuck = ("look",)
    world.calm(LOOK_MS)
    process.stuck = ()
    process.ask_server(BackendFailed("it cannot be reached"))
    process.stuck = ("look",)
    world.calm(200)
    facts = facts_in(world.records[process.name].detail)
    assert (facts.residency, facts.trouble) == ("absent", "it cannot be reached")


def test_a_model_that_takes_more_than_was_known_evicts_others_once_it_is_loaded() -> None:
    """The tier has 10 GB: a has 8, and b, of 2 by its file, takes 6."""
    world = World(msgspec.structs.replace(HIGH, ram_budget_gb=10.0, vram_budget_gb=0.0))
    first, second, _ = world.processes
    world.memory[first.known.memory_key] = 8 * GB
    first.residency.begin(is_warmed=False)
    world.calm(20_000)
    second.open_session()
    second.stuck = ("load",)
    world.calm(1_000)
    second.stuck = ("look",)
    second.ask_server()
    world.memory[second.known.memory_key] = 6 * GB
    second.stuck = ()
    world.calm(2_000)
    assert set(world.memory) == {second.known.memory_key}


def test_a_load_that_is_stuck_evicts_an_idle_model_of_its_server_and_an_ended_load_does_not() -> None:
    world = World()
    first, second, _ = world.processes
    world.memory[first.known.memory_key] = first.known.size_bytes
    second.stuck = ("load",)
    second.open_session()
    world.calm(STUCK_MS - 2_000)
    assert first.known.memory_key in world.memory
    world.calm(4_000)
    assert first.known.memory_key not in world.memory
    world.memory[first.known.memory_key] = first.known.size_bytes
    second.stuck = ()
    world.calm(2 * STUCK_MS)
    assert first.known.memory_key in world.memory


def test_an_idle_model_that_is_kept_warm_is_loaded_again_every_four_minutes() -> None:
    world = World()
    process = world.processes[0]
    process.residency.begin(is_warmed=True)
    loads = 0
    serve = world.serve

    def counted(one: Process, command: MemoryCommand) -> Any:
        nonlocal loads
        loads += command.kind == "load"
        return serve(one, command)

    world.serve = counted  # type: ignore[method-assign]
    world.check_may_load = lambda _process: None  # type: ignore[method-assign]
    world.calm(KEEP_WARM_MS - 10_000)
    assert loads == 1
    world.calm(2 * KEEP_WARM_MS)
    assert loads == 3


@pytest.mark.parametrize("others", [True, False])
def test_a_lack_of_memory_reports_whether_other_models_are_there(others: bool) -> None:
    world = World()
    process, other, _ = world.processes
    if others:
        other.residency.begin(is_warmed=False)
        world.memory[other.known.memory_key] = other.known.size_bytes
        world.calm(LOOK_MS)
        other.open_session()
        world.calm(RENEW_MS)
    process.open_session()
    for _ in range(60):
        process.turn()
        while process.to_redis:
            process.ask_redis()
        perform(world, "server is full", 0)
        process.ask_server()
    (failure,) = process.outcomes[:1]
    assert isinstance(failure, OutOfMemory)
    assert failure.room_helps == others
