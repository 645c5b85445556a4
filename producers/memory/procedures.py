"""Procedures that wait for replies and for time, as generators. Pure: no clock, no I/O, no asyncio.

    procedure:  reply = yield command     waits for the reply of a command; an exception in its place is raised
                yield 150                 waits so many milliseconds

                due(now) --> commands --(keeper.py)--> Redis, model server --> take(command, reply, now)

A procedure that is closed leaves nothing behind: its `finally` clauses append their last commands to `final_commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Literal, TypeVar

import msgspec

# All are for Redis, except the last three, which are for the model's server.
Kind = Literal[
    "use", "end_use", "hold_loader", "release_loader", "begin_eviction", "end_eviction", "ask_to_leave", "end_asking",
    "read_records", "read_uses", "take_order", "take_request_to_leave", "publish", "look", "load", "unload",
]  # fmt: skip
AT_SERVER: tuple[Kind, ...] = ("look", "load", "unload")
# After a break of Redis a command is sent again.
ASK_AGAIN_MS = 150

T = TypeVar("T")
MemoryKey = tuple[str, str]


class MemoryCommand(msgspec.Struct, frozen=True, eq=False):
    """One thing to do, with a reply. `memory_key` is the model's, `user` the use's name. `within_ms` bounds the time
    that the reply may take (0: no bound); for ask_to_leave it is how long the request is valid."""

    kind: Kind
    memory_key: MemoryKey = ("", "")
    user: str = ""
    size_bytes: int = 0
    within_ms: int = 0


Procedure = Generator[MemoryCommand | int, Any, T]


class StartedProcedure:
    """A procedure that has begun. `command` is what it waits for, None while it waits for time."""

    __slots__ = ("command", "ended", "is_asked", "steps", "wake_ms")

    def __init__(self, steps: Procedure[Any], ended: Callable[[Exception | None], None]) -> None:
        self.steps, self.ended = steps, ended
        self.command: MemoryCommand | None = None
        self.is_asked = False
        self.wake_ms = 0


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


class Procedures:
    """The procedures of one model, and the time that the latest call of due() or take() was given."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.final_commands: list[MemoryCommand] = []
        self._running: list[StartedProcedure] = []

    def next_ms(self, latest_ms: int) -> int:
        """When due() has to be called again if nothing happens before, at the latest at `latest_ms`."""
        return min([latest_ms, *(one.wake_ms for one in self._running if not one.is_asked)])

    def start(self, steps: Procedure[Any], ended: Callable[[Exception | None], None] = _raise) -> StartedProcedure:
        """Begins with the next due(). `ended` receives None, or the exception that ended the procedure."""
        running = StartedProcedure(steps, ended)
        self._running.append(running)
        return running

    def close(self, running: StartedProcedure | None) -> None:
        """Ends a procedure where it is; `ended` is not called. One that has ended stays as it is."""
        if running in self._running:
            self._running.remove(running)
            running.steps.close()

    def close_all(self) -> None:
        for running in [*self._running]:
            self.close(running)

    def is_awaited(self, command: MemoryCommand) -> bool:
        """True while a procedure waits for this command's reply."""
        return any(one.command is command for one in self._running)

    def due(self, now_ms: int) -> list[MemoryCommand]:
        """The commands to send now; each is returned once."""
        self.now_ms = now_ms
        for one in [*self._running]:
            if one.command is None and one.wake_ms <= now_ms and one in self._running:
                self._resume(one, None)
        commands, self.final_commands = self.final_commands, []
        for one in self._running:
            if one.command and not one.is_asked and one.wake_ms <= now_ms:
                one.is_asked = True
                commands.append(one.command)
        return commands

    def take(self, command: MemoryCommand, reply: Any, now_ms: int) -> bool:
        """Takes a reply, or the exception in its place; False where no procedure waits for it."""
        self.now_ms = now_ms
        one = next((one for one in self._running if one.command is command), None)
        if one is None:
            return False
        self._resume(one, reply)
        return True

    def ask_again(self, command: MemoryCommand, now_ms: int) -> None:
        """Redis did not take the command: it is due again a little later."""
        self.now_ms = now_ms
        for one in self._running:
            if one.command is command:
                one.is_asked, one.wake_ms = False, now_ms + ASK_AGAIN_MS

    def _resume(self, one: StartedProcedure, reply: Any) -> None:
        one.command, one.is_asked = None, False
        try:
            waits_for = one.steps.throw(reply) if isinstance(reply, Exception) else one.steps.send(reply)
        except StopIteration:
            self._running.remove(one)
            one.ended(None)
        except Exception as error:  # noqa: BLE001  # `ended` decides what it means
            self._running.remove(one)
            one.ended(error)
        else:
            if isinstance(waits_for, MemoryCommand):
                one.command, one.wake_ms = waits_for, 0
            else:
                one.wake_ms = self.now_ms + waits_for
