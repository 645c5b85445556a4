"""The replay process: it takes the replays of the library's recordings from its consumer group, and plays each in its
own task."""

from __future__ import annotations

import asyncio
import contextlib

from recordings.folder import Library
from runtime.leasing import LeasedTasks
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.errors import CouncilError, Malformed, OtherVersion, RedisAway, RedisRefuses, Refused, SessionGone
from schemas.sessions import Opening
from transport.leases import Lease
from transport.register import ProcessRegistration
from transport.replays import end_replay
from transport.sessions import cancel_session, find_session, read_opening

# Each has an open file and 2,000 entries in memory: 2 MB.
_MOST_REPLAYS = 32
# How long a replay follows orders after its end, or after the last order: pages that look back stay in step.
_LINGERS_S = 600.0


class ReplayProcess:
    """Plays the replays of one library until `stopping` is set."""

    def __init__(
        self, url: str, library: Library, registration: ProcessRegistration, log: Log, stopping: asyncio.Event
    ) -> None:
        self._library, self._log, self._stopping = library, log, stopping
        self._presence = RedisPresence(log)
        self._replays = LeasedTasks(
            url, keys.REPLAY_GROUP, registration, self._presence, log, _MOST_REPLAYS, self._play
        )
        self._pipe = self._replays.leased.pipe

    async def run(self) -> None:
        """Plays; then hands the replays over, and another process continues them."""
        await self._replays.run(self._stopping)

    async def _play(self, lease: Lease) -> None:
        """Plays the session to its end, if it is a replay of this library. Raises RedisAway, RedisRefuses,
        OtherVersion."""
        try:
            await self._play_session(lease.session)
        except (OtherVersion, RedisAway, RedisRefuses):
            raise
        except Exception as bug:  # noqa: BLE001  # a bug in one replay must not end the others
            self._log.exception("a replay raised an unexpected exception", session=lease.session)
            with contextlib.suppress(CouncilError):
                await cancel_session(self._pipe, lease.session, f"the replay failed ({type(bug).__name__})")

    async def _play_session(self, session: str) -> None:
        """Raises RedisAway, RedisRefuses, OtherVersion."""
        try:
            state = await find_session(self._pipe, session)
            # Most sessions are not replays.
            if state.clock_ms is None:
                return
            opening = await read_opening(self._pipe, state)
            if opening.replay is not None and opening.replay.recording:
                await self._play_recording(opening, opening.replay.recording)
        except OtherVersion:
            raise
        except (SessionGone, Malformed):
            return

    async def _play_recording(self, opening: Opening, recording: str) -> None:
        """Plays a recording; a missing or damaged one ends the replay with a reason. Raises SessionGone."""
        from producers.replay.player import Player  # its libraries are needed with the first replay only

        try:
            path = self._library.path(recording)
            player = Player(self._pipe, path, opening, self._presence, lingers_s=_LINGERS_S)
            await player.run()
        except (Refused, Malformed) as error:
            self._log.warning("a recording cannot be replayed", session=opening.session, error=str(error))
            # Clients do not learn the paths of this machine.
            reason = str(error).replace(str(self._library.folder / recording), recording)
            await end_replay(self._pipe, opening, f"the recording cannot be replayed: {reason}")
