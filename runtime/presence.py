"""Whether Redis is there, said once when it goes and once when it is back, however many tasks notice it."""

from __future__ import annotations

from runtime.log import Log


class RedisPresence:
    """What this process's log has last said about Redis: `is_away`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.is_away = False

    def lose(self, error: Exception) -> None:
        """A command failed: Redis is away, or refuses to take anything for now."""
        if not self.is_away:
            self._log.warning("Redis is away; waiting for it", error=str(error))
        self.is_away = True

    def come_back(self) -> None:
        """A command went through."""
        if self.is_away:
            self._log.warning("Redis is back")
        self.is_away = False
