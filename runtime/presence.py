"""The state of Redis in the log of a process: each change is logged once, however many tasks notice it.

    there    --lose--> away      no reply                  --come_back--> there
    accepts  --lose--> full      at its maxmemory          --come_back after three seconds without a refusal--> accepts
    accepts  --lose--> refusing  no permission, and so on     (the same)

A full Redis still executes reads, and writes that need no memory. So a command that succeeds ends a refusal only after
a time in which no command was refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from runtime.log import Log
from schemas.errors import RedisAway
from transport.redis.connection import ReplyError, is_out_of_memory
from transport.redis.refusals import in_words
from transport.redis.replies import is_refused_connection

# Each process writes its record once a second, and repeats what was refused at least as often.
_CALM_S = 3.0
_FULL = "Redis is out of memory (maxmemory): nothing is written until there is room"
_HAS_ROOM = "Redis has room again: writing goes on"
_REFUSES = "Redis refuses a command of this process, which is tried again: change what the error names"
_ACCEPTS = "Redis no longer refuses the commands of this process"


class RedisPresence:
    """The state that this process has logged last. `is_away`: Redis does not reply."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self.is_away = False
        # The time of the last refusal of each kind, by the sentence about its end.
        self._refused: dict[str, float] = {}

    def lose(self, error: Exception) -> None:
        """A command failed: `error` is a RedisAway, a RedisRefuses or a ReplyError."""
        if is_out_of_memory(error):
            self._refuse(_FULL, _HAS_ROOM)
        elif not isinstance(error, RedisAway) or is_refused_connection(error.__cause__):
            self._refuse(_REFUSES, _ACCEPTS, error=in_words(error))
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
        """Calls lose() with the first error among the replies, or come_back()."""
        refusal = next((reply for reply in replies if isinstance(reply, ReplyError)), None)
        self.come_back() if refusal is None else self.lose(refusal)
