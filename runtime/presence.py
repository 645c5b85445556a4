"""The state of Redis in the log of a process: each change is logged once, however many tasks notice it.

    there    --lose--> away      no reply, or a replica    --come_back after a time without a loss--> there
    accepts  --lose--> full      at its maxmemory          --come_back after a time without a refusal--> accepts
    accepts  --lose--> refusing  no permission, and so on     (the same)

A command that succeeds does not end a state, because others may fail: a full Redis still executes reads, a server at
its limit of clients serves those that it has, and of a cluster one node may be away. Each process tries what failed
again at least once a second. So a state ends with a command that succeeds after a time in which none failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from runtime.log import Log
from schemas.errors import RedisAway
from transport.redis.connection import is_out_of_memory
from transport.redis.refusals import in_words
from transport.redis.replies import errors_in, is_refused_connection, is_timeout, refuses_writes

_CALM_S = 3.0
# A command that waits for its reply in vain fails after seven seconds at the latest, so it is tried again less often.
_CALM_AFTER_TIMEOUT_S = 10.0
_AWAY = "Redis is away; waiting for it"
_BACK = "Redis is back"
_FULL = "Redis is out of memory (maxmemory): nothing is written until there is room"
_HAS_ROOM = "Redis has room again: writing goes on"
_REFUSES = "Redis refuses a command of this process, which is tried again: change what the error names"
_ACCEPTS = "Redis no longer refuses the commands of this process"


class RedisPresence:
    """The states that this process has logged last. `is_away`: the latest command got no reply. `refusal`: the error
    with which Redis refuses what this process writes, for whichever session; None where it accepts. A process with a
    refusal takes no new work."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self.is_away = False
        self.refusal: Exception | None = None
        self._refused_s = 0.0
        # The earliest end of each state, by the sentence about its end; the state that was noticed last is at the end.
        self._until_s: dict[str, float] = {}

    def lose(self, error: Exception) -> None:
        """A command failed: `error` is a RedisAway, a RedisRefuses or a ReplyError."""
        self.is_away = False
        if refuses_writes(error):
            self.refusal, self._refused_s = error, self._clock()
        if is_out_of_memory(error):
            self._begin(_FULL, _HAS_ROOM, _CALM_S)
        elif not isinstance(error, RedisAway) or is_refused_connection(error.__cause__):
            self._begin(_REFUSES, _ACCEPTS, _CALM_S, error=in_words(error))
        else:
            self.is_away = True
            calm_s = _CALM_AFTER_TIMEOUT_S if is_timeout(error.__cause__) else _CALM_S
            self._begin(_AWAY, _BACK, calm_s, error=str(error))

    def _begin(self, sentence: str, end: str, calm_s: float, **fields: str) -> None:
        before_s = self._until_s.pop(end, None)
        if before_s is None:
            self._log.warning(sentence, **fields)
        self._until_s[end] = max(self._clock() + calm_s, before_s or 0.0)

    def come_back(self) -> None:
        """A command succeeded."""
        self.is_away = False
        now_s = self._clock()
        if self.refusal is not None and now_s - self._refused_s > _CALM_S:
            self.refusal = None
        for end in [end for end, until_s in self._until_s.items() if now_s >= until_s]:
            self._log.warning(end)
            del self._until_s[end]

    def note(self, replies: Sequence[Any]) -> None:
        """Calls lose() with the first error among the replies, those of a transaction too, or come_back()."""
        refusal = next(errors_in(replies), None)
        self.come_back() if refusal is None else self.lose(refusal)
