"""Connections to Redis: one round trip for any number of commands.

    Pipe.run([("XADD", ...), ("TIME",)])  -->  [reply, reply]          (sync: the aggregator's loop)
    AsyncPipe.run([...])                  -->  [reply, reply]          (asyncio: producers and consumers)

redis-py's own connection does the work (its parser, TLS, ACL and URL forms); its client layer is left out, because it
costs four to five times a packed write and because its automatic retries write twice and lose reads. Nothing is ever
retried here: a lost reply raises RedisAway, and the caller, who alone knows what may be said again, decides. An error
that Redis answers is returned in its place as a ReplyError, not raised, so that one refused command hides no other's
reply. Every new connection loads the scripts, so that EVALSHA finds them after a restart of Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import hiredis
from redis import connection as redis_sync
from redis.asyncio import connection as redis_asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, OutOfMemoryError, RedisError, ResponseError
from redis.retry import Retry

from schemas.errors import RedisAway, RedisRefuses, Refused
from transport.scripts import SCRIPTS

Command = tuple[str | bytes | int | float, ...]
ReplyError = ResponseError

# A Redis that is there answers in milliseconds; one that does not within this is treated as away.
REPLY_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 3.0
OLDEST_REDIS = (6, 2)


def _connection_arguments(url: str) -> dict[str, Any]:
    """redis-py's arguments for a URL. Raises Refused for what is no Redis URL."""
    try:
        arguments = dict(redis_sync.parse_url(url))  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        parts = urlsplit(url)
        _ = parts.port
        if parts.scheme != "unix" and not re.fullmatch(r"(/\d*)?", parts.path):
            raise ValueError("a database is a number")
    except ValueError:
        raise Refused("bad_redis_url", f"{without_password(url)!r} is no Redis URL: {URL_FORMS}.") from None
    arguments |= {"socket_timeout": REPLY_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S, "protocol": 2}
    if arguments.get("path"):
        arguments.pop("socket_connect_timeout")
    return arguments


URL_FORMS = "write redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///PATH/TO/redis.sock"


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    shown = url.replace(f":{parts.password}@", ":***@") if parts.password else url
    return shown.partition("?")[0]


@contextlib.contextmanager
def _refusing_what_no_connection_takes(url: str) -> Iterator[None]:
    """Options in the URL's query that do not exist, or whose value is none. Raises Refused."""
    try:
        yield
    except (TypeError, ValueError, RedisError):
        raise Refused(
            "bad_redis_url",
            f"The Redis URL {without_password(url)} has an option that is none: correct its query.",
        ) from None


def pack(commands: Iterable[Command]) -> bytes:
    """The commands as Redis reads them, in one piece."""
    return b"".join(hiredis.pack_command(command) for command in commands)  # type: ignore[arg-type]  # its stub lies


def _load_scripts() -> list[Command]:
    return [("SCRIPT", "LOAD", script.source) for script in SCRIPTS]


class Pipe:
    """A connection for one thread. Connects when it is first used, and again after it broke."""

    def __init__(self, url: str) -> None:
        self.url = url
        arguments = _connection_arguments(url)
        kind = arguments.pop("connection_class", redis_sync.Connection)
        with _refusing_what_no_connection_takes(url):
            self._connection = kind(**arguments, retry=Retry(NoBackoff(), 0))

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """One reply for each command, in order; an error of Redis is returned as a ReplyError. Raises RedisAway."""
        try:
            if not self._connection.is_connected:
                self._connection.connect()
                self._exchange(_load_scripts())
            replies = self._exchange(commands)
        except (RedisError, OSError) as error:
            self.close()
            raise RedisAway(f"Redis at {without_password(self.url)} does not answer: {error}") from error
        if _lost_its_scripts(replies):
            self.close()
        return replies

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        self._connection.send_packed_command([pack(commands)], check_health=False)
        return [self._one_reply() for _ in commands]

    def _one_reply(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error

    def close(self) -> None:
        self._connection.disconnect()


class AsyncPipe:
    """A connection for one event loop. Calls queue up: one round trip is under way at a time."""

    def __init__(self, url: str) -> None:
        self.url = url
        arguments = _connection_arguments(url)
        kind = arguments.pop("connection_class", redis_sync.Connection)
        with _refusing_what_no_connection_takes(url):
            self._connection = _ASYNC_KIND[kind](**arguments, retry=AsyncRetry(NoBackoff(), 0))
        self._turn = asyncio.Lock()

    async def run(self, commands: Sequence[Command], *, block_s: float = 0.0) -> list[Any]:
        """As Pipe.run; `block_s` is how long a BLOCK among the commands may hold the replies back. Raises RedisAway."""
        async with self._turn:
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S + block_s):
                    if not self._connection.is_connected:
                        await self._connection.connect()
                        await self._exchange(_load_scripts())
                    replies = await self._exchange(commands)
            except (RedisError, OSError, TimeoutError) as error:
                await self._drop()
                raise RedisAway(f"Redis at {without_password(self.url)} does not answer: {error}") from error
            except asyncio.CancelledError:
                # Replies of the abandoned commands must not be taken for those of the next ones.
                await self._drop()
                raise
            if _lost_its_scripts(replies):
                await self._drop()
            return replies

    async def one(self, *command: str | bytes | int | float) -> Any:
        """The reply of a single command. Raises RedisAway, and RedisRefuses for an error that Redis answers."""
        (reply,) = await self.run([command])
        return accepted(reply)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        await self._connection.send_packed_command(pack(commands), check_health=False)
        return [await self._one_reply() for _ in commands]

    async def _one_reply(self) -> Any:
        try:
            # The time-out is run()'s, which knows of blocking reads.
            return await self._connection.read_response(disable_decoding=True, timeout=None)
        except ResponseError as error:
            return error

    async def _drop(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)

    async def close(self) -> None:
        await self._drop()


_ASYNC_KIND = {
    redis_sync.Connection: redis_asyncio.Connection,
    redis_sync.SSLConnection: redis_asyncio.SSLConnection,
    redis_sync.UnixDomainSocketConnection: redis_asyncio.UnixDomainSocketConnection,
}


def _lost_its_scripts(replies: list[Any]) -> bool:
    """Redis forgot our scripts (SCRIPT FLUSH): a new connection brings them again."""
    return any(isinstance(reply, NoScriptError) for reply in replies)


def is_out_of_memory(reply: Any) -> bool:
    """True where Redis refused to take more. Redis 6.2 says so of a script in a sentence of its own."""
    return isinstance(reply, OutOfMemoryError) or (isinstance(reply, ReplyError) and "OOM" in str(reply))


def accepted(reply: Any) -> Any:
    """The reply. Raises RedisRefuses where it is an error."""
    if isinstance(reply, ReplyError):
        raise RedisRefuses(f"Redis refuses: {reply}")
    return reply


def atomically(*commands: Command) -> list[Command]:
    """The commands as one transaction: nobody sees a moment in between. The last reply is the list of theirs."""
    return [("MULTI",), *commands, ("EXEC",)]


def check_server(url: str) -> None:
    """Raises Refused, with a sentence that says what to do, unless a Redis that can carry a council answers at
    `url`."""
    pipe = Pipe(url)
    try:
        (info,) = pipe.run([("INFO", "server")])
    except RedisAway as error:
        if isinstance(error.__cause__, AuthenticationError | ResponseError):
            raise _not_let_in(url, error.__cause__) from error
        raise Refused(
            "redis_unreachable",
            f"No Redis answers at {without_password(url)} ({error.__cause__}): start one there, or correct the URL.",
            status=503,
        ) from error
    finally:
        pipe.close()
    if isinstance(info, ReplyError):
        raise _not_let_in(url, info)
    version = info_fields(info).get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise Refused(
            "redis_too_old", f"Redis at {without_password(url)} is {version}; the council needs 6.2 or newer."
        )


def _not_let_in(url: str, error: Exception) -> Refused:
    return Refused(
        "redis_refused",
        f"Redis at {without_password(url)} does not let us in ({error}): write redis://USER:PASSWORD@HOST:PORT/0.",
    )


def info_fields(info: bytes) -> dict[str, str]:
    """The answer of INFO as a dictionary."""
    pairs = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, separator, value in pairs if separator}


def redis_ms(time_reply: Any) -> int:
    """The milliseconds of a TIME reply, floored."""
    return int(time_reply[0]) * 1000 + int(time_reply[1]) // 1000


def redis_ns(time_reply: Any) -> int:
    """The nanoseconds of a TIME reply."""
    return int(time_reply[0]) * 1_000_000_000 + int(time_reply[1]) * 1_000
