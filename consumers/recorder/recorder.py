"""The recorder's shell: which sessions are recorded, into which files of the library.

    council:keep (orders) ------------------+
    council:sessions, where all are kept ---+--> a task for each session --> the library, kept below its limit

An order stays in its stream until its session is recorded: a recorder that was killed finds it again, and what it had
written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from recordings.folder import Library, recording_name
from runtime.log import Log
from runtime.presence import RedisPresence
from runtime.registration import keep_record
from schemas.errors import Malformed, RedisAway, RedisRefuses, Refused, SessionGone
from schemas.keys import entry_ms
from transport.frames import wait_for_sessions
from transport.keeping import forget_order, wait_for_orders
from transport.redis.connection import AsyncPipe, BlockingPipe
from transport.register import ProcessRegistration
from transport.sessions import find_session, read_opening

_BLOCK_MS = 1_000
_RETRY_S = 0.25
# A full disk, or a folder without rights: somebody has to do something about it, meanwhile the session stays in Redis.
_DISK_RETRY_S = 15.0
# A session costs a file and a second of its messages in memory; more wait for their turn.
_MOST_AT_ONCE = 64


class RecorderSettings(msgspec.Struct, frozen=True):
    """What a person decides. `keeps_all`: every session is recorded, else those that are asked for. The library keeps
    below `most_bytes`. Without `text` recordings contain numbers alone."""

    keeps_all: bool
    most_bytes: int
    text: bool = True


class Recorder:
    """Records into one library until it is cancelled."""

    def __init__(
        self, url: str, library: Library, settings: RecorderSettings, registration: ProcessRegistration, log: Log
    ) -> None:
        self._url, self._library, self._settings = url, library, settings
        self._registration, self._log, self._presence = registration, log, RedisPresence(log)
        self._pipe = AsyncPipe(url)
        self._recording: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)
        self._kept = self._failed = 0
        self._has_disk_trouble = False

    async def run(self) -> None:
        """Records the sessions that are ordered, or all. Raises Refused where the library's folder cannot be used."""
        self._library.make()
        await self._take_up()
        self._registration.ready = True
        tasks = [
            asyncio.create_task(keep_record(self._url, self._registration, self._presence, self._facts)),
            asyncio.create_task(self._listen(wait_for_orders, self._take_order)),
        ]
        if self._settings.keeps_all:
            tasks.append(asyncio.create_task(self._listen(wait_for_sessions, self._take_session)))
        try:
            await asyncio.gather(*tasks)
        finally:
            tasks += self._recording.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._pipe.close()

    def _facts(self) -> dict[str, int]:
        return {"sessions": len(self._recording), "recordings_kept": self._kept, "recordings_failed": self._failed}

    async def _take_up(self) -> None:
        """Goes on with what a recorder before this one has begun. Of a session that is not there any more, what was
        written is all that there will be."""
        for path in self._library.unfinished():
            from consumers.recorder.session_recorder import finish_unfinished  # as above

            session = path.stem.rpartition("_")[2]
            while True:
                try:
                    await find_session(self._pipe, session)
                    self._start(session, None)
                except SessionGone:
                    with contextlib.suppress(Refused, OSError):
                        finish_unfinished(path)
                except (RedisAway, RedisRefuses) as error:
                    self._presence.lose(error)
                    await asyncio.sleep(_RETRY_S)
                    continue
                break

    async def _listen(
        self,
        read: Callable[[BlockingPipe, str, int], Awaitable[list[tuple[str, str]]]],
        take: Callable[[str, str], None],
    ) -> None:
        """Takes what a stream contains, from its beginning, and what comes."""
        pipe, after = BlockingPipe(self._url), "0"
        try:
            while True:
                try:
                    for entry_id, session in await read(pipe, after, _BLOCK_MS):
                        take(entry_id, session)
                        after = entry_id
                    self._presence.come_back()
                except (RedisAway, RedisRefuses) as error:
                    self._presence.lose(error)
                    # A Redis that lost its data begins its ids anew.
                    after = "0"
                    await asyncio.sleep(_RETRY_S)
        finally:
            await pipe.close()

    def _take_order(self, entry_id: str, session: str) -> None:
        self._start(session, entry_id)

    def _take_session(self, _entry_id: str, session: str) -> None:
        self._start(session, None)

    def _start(self, session: str, order: str | None) -> None:
        if session not in self._recording:
            task = asyncio.create_task(self._see_through(session, order))
            self._recording[session] = task
            task.add_done_callback(lambda _: self._recording.pop(session, None))
        elif order is not None:
            # It is recorded already: by an order, or because all are.
            waiting = asyncio.create_task(self._forget_after(self._recording[session], order))
            self._recording[f"{session} {order}"] = waiting
            waiting.add_done_callback(lambda _: self._recording.pop(f"{session} {order}", None))

    async def _forget_after(self, task: asyncio.Task[None], order: str) -> None:
        await asyncio.wait({task})
        await self._forget(order)

    async def _see_through(self, session: str, order: str | None) -> None:
        """Records one session; then its order is carried out."""
        async with self._turns:
            try:
                await self._record(session)
            except Exception:  # noqa: BLE001  # a bug that one session brings out must not end the others
                self._failed += 1
                self._log.exception("a session cannot be recorded", session=session)
        if order is not None:
            await self._forget(order)

    async def _forget(self, order: str) -> None:
        while True:
            try:
                return await forget_order(self._pipe, order)
            except (RedisAway, RedisRefuses):
                await asyncio.sleep(_RETRY_S)

    async def _record(self, session: str) -> None:
        from consumers.recorder.session_recorder import record_session  # most recorders have nothing to record

        while True:
            try:
                name = await self._name(session)
                if name is not None and not (self._library.folder / name).exists():
                    path = self._library.folder / name
                    await record_session(self._pipe, session, path, self._presence, text=self._settings.text)
                    self._kept += 1
                    self._has_disk_trouble = False
                    self._trim(name)
                return
            except (RedisAway, RedisRefuses) as error:
                self._presence.lose(error)
                await asyncio.sleep(_RETRY_S)
            except (SessionGone, Malformed):
                return
            except Refused as error:
                self._log.warning("a session is not recorded", session=session, error=str(error))
                return
            except OSError as error:
                self._tell_of_disk(session, error)
                await asyncio.sleep(_DISK_RETRY_S)

    async def _name(self, session: str) -> str | None:
        """The file's name; None for a replay, whose recording is there already."""
        state = await find_session(self._pipe, session)
        if state.clock_ms is not None:
            return None
        opening = await read_opening(self._pipe, state)
        prompt = opening.prompt if self._settings.text else ""
        return recording_name(session, prompt, entry_ms(state.opened))

    def _tell_of_disk(self, session: str, error: OSError) -> None:
        if not self._has_disk_trouble:
            self._has_disk_trouble = True
            self._failed += 1
            self._log.error(
                "a session cannot be written to the recordings' folder; trying again while Redis keeps it",
                session=session, folder=str(self._library.folder), error=error.strerror or str(error),
            )  # fmt: skip

    def _trim(self, newest: str) -> None:
        for name in self._library.trim(self._settings.most_bytes, keep=(newest,)):
            self._log.info("the oldest recording is deleted: the library is full", recording=name)
