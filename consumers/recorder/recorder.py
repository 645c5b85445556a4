"""The recorder's shell: which sessions are recorded, into which files of the library.

    council:keep (orders) ------------------+
    council:sessions, where all are kept ---+--> a task for each session --> the library, kept below its limit

An order stays in its stream until its session is recorded. So the next recorder continues after a recorder was killed:
with the orders, and with the files that it had begun.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from recordings.folder import Library, recording_name
from runtime.listening import follow_ids
from runtime.log import Log
from runtime.presence import RedisPresence
from runtime.registration import keep_record
from schemas.errors import Malformed, OtherVersion, RedisAway, RedisRefuses, Refused, SessionGone
from schemas.keys import entry_ms
from transport.frames import wait_for_sessions
from transport.keeping import forget_order, wait_for_orders
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration
from transport.sessions import find_session, read_opening

_RETRY_S = 0.25
# A full disk, or a folder without write permission: the user must act, and meanwhile the session stays in Redis.
_DISK_RETRY_S = 15.0
# A session costs a file and a second of its messages in memory; further sessions wait.
_MOST_AT_ONCE = 64


class RecorderSettings(msgspec.Struct, frozen=True):
    """`keeps_all`: every session is recorded, else those that are asked for. The library is kept below `most_bytes`.
    Without `text` recordings contain numbers alone."""

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
        self._slots = asyncio.Semaphore(_MOST_AT_ONCE)
        self._kept = self._failed = 0
        self._has_disk_trouble = False

    async def run(self) -> None:
        """Records the sessions that are ordered, or all. Raises Refused where the library's folder cannot be used."""
        self._library.make()
        await self._continue_unfinished()
        self._registration.ready = True
        work = [
            keep_record(self._url, self._registration, self._presence, self._facts),
            follow_ids(self._url, self._presence, wait_for_orders, lambda order, session: self._start(session, order)),
        ]
        if self._settings.keeps_all:
            work.append(
                follow_ids(self._url, self._presence, wait_for_sessions, lambda _, session: self._start(session, None))
            )
        tasks = [asyncio.create_task(part) for part in work]
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

    async def _continue_unfinished(self) -> None:
        """Continues the files that an earlier recorder has begun. The file of a session that is gone is finished as it
        is."""
        for path in self._library.unfinished():
            from consumers.recorder.session_recorder import finish_unfinished  # as in _record

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

    def _start(self, session: str, order: str | None) -> None:
        if session not in self._recording:
            task = asyncio.create_task(self._record_once(session, order))
            self._recording[session] = task
            task.add_done_callback(lambda _: self._recording.pop(session, None))
        elif order is not None:
            # The session is recorded already: by another order, or because all are.
            waiting = asyncio.create_task(self._forget_after(self._recording[session], order))
            self._recording[f"{session} {order}"] = waiting
            waiting.add_done_callback(lambda _: self._recording.pop(f"{session} {order}", None))

    async def _forget_after(self, task: asyncio.Task[None], order: str) -> None:
        await asyncio.wait({task})
        await self._forget(order)

    async def _record_once(self, session: str, order: str | None) -> None:
        """Records one session; then its order is forgotten."""
        async with self._slots:
            try:
                await self._record(session)
            except OtherVersion as error:
                # Its order stays for a recorder of that version.
                self._log.warning("a session is left to other recorders", session=session, error=str(error))
                return
            except Exception:  # noqa: BLE001  # a bug that one session brings out must not end the others
                self._failed += 1
                self._log.exception("a session cannot be recorded", session=session)
        if order is not None:
            await self._forget(order)

    async def _forget(self, order: str) -> None:
        while True:
            try:
                return await forget_order(self._pipe, order)
            except (RedisAway, RedisRefuses) as error:
                self._presence.lose(error)
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
                    for oldest in self._library.trim(self._settings.most_bytes, keep=(name,)):
                        self._log.info("the oldest recording is deleted: the library is full", recording=oldest)
                return
            except (RedisAway, RedisRefuses) as error:
                self._presence.lose(error)
                await asyncio.sleep(_RETRY_S)
            except OtherVersion:
                raise
            except (SessionGone, Malformed):
                return
            except Refused as error:
                self._log.warning("a session is not recorded", session=session, error=str(error))
                return
            except OSError as error:
                self._report_disk(session, error)
                await asyncio.sleep(_DISK_RETRY_S)

    async def _name(self, session: str) -> str | None:
        """The file's name; None for a replay, whose recording exists already."""
        state = await find_session(self._pipe, session)
        if state.clock_ms is not None:
            return None
        opening = await read_opening(self._pipe, state)
        prompt = opening.prompt if self._settings.text else ""
        return recording_name(session, prompt, entry_ms(state.opened))

    def _report_disk(self, session: str, error: OSError) -> None:
        if not self._has_disk_trouble:
            self._has_disk_trouble = True
            self._failed += 1
            self._log.error(
                "a session cannot be written to the recordings' folder; trying again while Redis keeps it",
                session=session, folder=str(self._library.folder), error=error.strerror or str(error),
            )  # fmt: skip
