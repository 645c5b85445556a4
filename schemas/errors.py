"""Every error the council raises on purpose.

    CouncilError
    ├── Refused        the caller asked for something that cannot be: exit 2, or HTTP 4xx with `code`
    ├── Malformed      bytes that are not what they claim to be; the entry is counted and kept aside
    └── Unavailable    something that is needed is away: exit 1, or HTTP 503
        ├── RedisAway      no answer from Redis: wait and connect again
        ├── RedisRefuses   Redis answered with an error: out of memory, still loading, no permission
        ├── NoAggregator   a session is open and nobody closes its windows
        └── SessionGone    the session's keys have expired, or Redis lost them

Each message is one sentence that tells a person what to do. Anything else that is raised is our bug.
"""

from __future__ import annotations


class CouncilError(Exception):
    """The root: `str(error)` is fit for a person to read."""


class Refused(CouncilError):
    """Bad input. `code` is stable and machine-readable, `status` the HTTP status that goes with it."""

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Malformed(CouncilError):
    """Bytes that do not decode into the struct they should hold."""


class Unavailable(CouncilError):
    """Something that is needed is not there now; `code` names it."""

    code = "unavailable"


class RedisAway(Unavailable):
    """Redis did not answer; nothing is known about whether the last commands ran."""

    code = "redis_away"


class RedisRefuses(Unavailable):
    """Redis answered a command with an error; the command did nothing."""

    code = "redis_refuses"


class NoAggregator(Unavailable):
    """No window of an open session is closed."""

    code = "no_aggregator"


class SessionGone(Unavailable):
    """The session's keys are no longer there."""

    code = "session_gone"
