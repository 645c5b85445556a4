"""The replay process: it takes the replays of the library's recordings from its consumer group, and plays each in a
task of its own."""

from __future__ import annotations

import asyncio
import contextlib

from recordings.folder import Library
from runtime.leasing import LeasedSessions
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.errors import CouncilError, Malformed, RedisAway, RedisRefuses, Refused, SessionGone
from schemas.sessions import Opening
from transport.leases import Lease
from transport.register import ProcessRegistration
from transport.replays import end_replay
from transport.sessions import cancel_session, find_session, read_opening

_RETRY_S = 0.25
# Each has an open file and 2,000 entries in memory: 2 MB.
_MOST_REPLAYS = 32
# After its end a replay still follows orders: pages that look back stay in step for so long after the last of them.
_LINGERS_S = 600.0
_GOODBYE_S = 2.0


class ReplayProcess:
    """Plays the replays of one library until `stopping` is set."""

    def __init__(
        self, url: str, library: Library, registration: ProcessRegistration, log: Log, stopping: asyncio.Event
    ) -> None:
        self._library, self._registration, self._log, self._stopping = library, registration, log, stopping
        self._presence = RedisPresence(log)
        self._playing: dict[str, tuple[Lease, asyncio.Task[None]]] = {}
        self._leased = LeasedSessions(
            url, keys.REPLAY_GROUP, registration, self._presence, _MOST_REPLAYS,
            serve=self._play, give_up=self._give_up, count=lambda: len(self._playing),
        )  # fmt: skip
        self._pipe = self._leased.pipe

    async def run(self) -> None:
        """Plays; then hands the replays over, which another process takes up where they are."""
        self._registration.ready = True
        work = [asyncio.create_task(part()) for part in (self._leased.keep_up, self._leased.take_new)]
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
        tasks = [*work, stopping, *(task for _, task in self._playing.values())]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._leased.hand_over()
        except (RedisAway, TimeoutError):
            self._log.warning("Redis is away; the replays will be taken over when their leases run out")
        await self._leased.close()
        for result in results[: len(work)]:
            if isinstance(result, Exception):
                raise result

    def _play(self, lease: Lease) -> None:
        if lease.entry_id not in self._playing:
            self._playing[lease.entry_id] = lease, asyncio.create_task(self._see_through(lease))

    def _give_up(self, lease: Lease) -> None:
        """Another process has the lease."""
        if found := self._playing.pop(lease.entry_id, None):
            found[1].cancel()

    async def _see_through(self, lease: Lease) -> None:
        """Plays the session to its end, where it is a replay of this library; then it needs no process any more."""
        while True:
            try:
                await self._play_session(lease.session)
                await self._leased.acknowledge(lease)
                break
            except (RedisAway, RedisRefuses) as error:
                self._presence.lose(error)
                await asyncio.sleep(_RETRY_S)
            except Exception as bug:  # noqa: BLE001  # a bug that one replay brings out must not end the others
                self._log.exception("a replay broke", session=lease.session)
                with contextlib.suppress(CouncilError):
                    await cancel_session(self._pipe, lease.session, f"the replay failed ({type(bug).__name__})")
                break
        self._playing.pop(lease.entry_id, None)

    async def _play_session(self, session: str) -> None:
        """Raises RedisAway, RedisRefuses."""
        try:
            state = await find_session(self._pipe, session)
            # Most sessions are live ones.
            if state.clock_ms is None:
                return
            opening = await read_opening(self._pipe, state)
            if opening.replay is not None and opening.replay.recording:
                await self._play_recording(opening, opening.replay.recording)
        except (SessionGone, Malformed):
            return

    async def _play_recording(self, opening: Opening, recording: str) -> None:
        """A recording that is gone or damaged ends the replay, with a reason. Raises SessionGone."""
        from producers.replay.player import Player  # a process that has played nothing does without its libraries

        try:
            path = self._library.path(recording)
            player = Player(self._pipe, path, opening, self._presence, lingers_s=_LINGERS_S)
            await player.run()
        except (Refused, Malformed) as error:
            self._log.warning("a recording cannot be replayed", session=opening.session, error=str(error))
            # Frontends know no paths here.
            told = str(error).replace(str(self._library.folder / recording), recording)
            await end_replay(self._pipe, opening, f"the recording cannot be replayed: {told}")
