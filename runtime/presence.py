"""Whether Redis is there and takes what this process writes: each change is logged once, however many tasks notice it.

    there --lose--> away      no answer               --come_back--> there
    takes --lose--> full      at its maxmemory        --three seconds without a refusal, come_back--> takes
    takes --lose--> refusing  no permission, and so on   (the same)

Whether it is there and what it refuses are two things: a full Redis still answers reads and the writes that need no
memory. So a command that succeeds ends a refusal only after a while in which no command was refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from runtime.log import Log
from schemas.errors import RedisAway
from transport.redis.connection import ReplyError, is_out_of_memory
from transport.redis.replies import is_refused_connection

# Each process writes its record once a second, and repeats what was refused at least as often.
_CALM_S = 3.0
_FULL = "Redis is out of memory (maxmemory): nothing is written until there is room"
_HAS_ROOM = "Redis has room again: writing goes on"
_REFUSES = "Redis refuses a command of this process, which is tried again: change what the error names"
_ACCEPTS = "Redis no longer refuses the commands of this process"


class RedisPresence:
    """What this process's log has last said about Redis. `is_away`: it does not answer."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self.is_away = False
        # When each kind of refusal was last met, by the sentence about its end.
        self._refused: dict[str, float] = {}

    def lose(self, error: Exception) -> None:
        """A command failed: `error` is a RedisAway, a RedisRefuses or a ReplyError."""
        if is_out_of_memory(error):
            self._refuse(_FULL, _HAS_ROOM)
        elif not isinstance(error, RedisAway) or is_refused_connection(error.__cause__):
            self._refuse(_REFUSES, _ACCEPTS, error=str(error))
        elif not self.is_away:
            self._log.warning("Redis is away; waiting for it", error=str(error))
            self.is_away = True

    def _refuse(self, sentence: str, end: str, **fields: str) -> None:
        if end not in self._refused:
            self._log.warning(sentence, **fields)
        self.is_away, self._refused[end] = False, self._clock()

    def come_back(self) -> None:
        """A command succeeded."""
        if self.is_away:
            self._log.warning("Redis is back")
            self.is_away = False
        for end, met_s in list(self._refused.items()):
            if self._clock() - met_s > _CALM_S:
                self._log.warning(end)
                del self._refused[end]

    def note(self, replies: Sequence[Any]) -> None:
        """Commands were answered: calls lose() with the first error among the replies, or come_back()."""
        refusal = next((reply for reply in replies if isinstance(reply, ReplyError)), None)
        self.come_back() if refusal is None else self.lose(refusal)
