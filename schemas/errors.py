"""Every error the council raises on purpose.

    CouncilError
    ├── Refused        a request, a setting or a file is not valid: exit 2, or HTTP 4xx with `code`
    ├── Malformed      bytes that do not decode; such an entry is counted and copied to the dead letters
    │   └── OtherVersion   bytes that another version of the council wrote: its processes can read them
    └── Unavailable    something that is needed is missing for now: exit 1, or HTTP 503
        ├── RedisAway      Redis did not reply: wait and connect again
        ├── RedisRefuses   Redis replied with an error: out of memory, no permission
        ├── SetBack        Redis lost the newest data of a session, which was read before: read it again
        ├── NoAggregator   no aggregator closes the windows of a session
        └── SessionGone    the session's keys have expired, or Redis lost them

Each message is one sentence that says what is wrong and what to do. Any other exception is a bug.
"""

from __future__ import annotations


class CouncilError(Exception):
    """The base class: `str(error)` is a message for the user."""


class Refused(CouncilError):
    """Input that is not valid. `code` is stable and machine-readable, `status` is the HTTP status for it."""

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Malformed(CouncilError):
    """Bytes that do not decode into the struct that they should contain."""


class OtherVersion(Malformed):
    """Bytes of another version of the council. `is_older`: of an earlier one."""

    def __init__(self, what: str, version: int, own: int) -> None:
        super().__init__(
            f"{what} has version {version}, and this program reads version {own}: "
            "run one version of the council in all processes on this Redis."
        )
        self.is_older = version < own


class Unavailable(CouncilError):
    """Something that is needed is missing for now; `code` is stable and machine-readable."""

    code = "unavailable"


class RedisAway(Unavailable):
    """Redis did not reply; whether the last commands were executed is unknown."""

    code = "redis_away"


class RedisRefuses(Unavailable):
    """Redis replied to a command with an error; the command changed nothing."""

    code = "redis_refuses"


class NoAggregator(Unavailable):
    """No aggregator closes the windows of a session, which is open or to be opened."""

    code = "no_aggregator"


class SetBack(Unavailable):
    """What was read last of a session does not stand in Redis any more: a restart or a failover lost it. What was read
    before may differ from what Redis has now, so the session must be read again from its beginning."""

    code = "redis_set_back"

    def __init__(self, session: str) -> None:
        super().__init__(f"Redis lost the newest data of the session {session!r}: read it again from its beginning.")


class SessionGone(Unavailable):
    """The session's keys do not exist."""

    code = "session_gone"


def not_here(session: str) -> SessionGone:
    """The error for a session that a user names."""
    return SessionGone(f"There is no session {session!r} here: `council sessions` lists those that exist.")


def expired(session: str) -> SessionGone:
    """The error for a session that existed."""
    return SessionGone(f"The session {session!r} has expired.")
