"""Where Redis is, as its URL says it: one server (which may be of a cluster), or whoever Sentinels call the master."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import redis.asyncio.connection as redis_asyncio
import redis.connection as redis_sync
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from schemas.errors import Refused

# Host and port of a server.
Node = tuple[str, int]

# A Redis that is there answers in milliseconds; one that does not within this is treated as away.
REPLY_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 3.0
# A Sentinel says what it knows by heart; the next one may be asked instead.
SENTINEL_TIMEOUT_S = 1.0
_SENTINEL_PORT = 26379

URL_FORMS = (
    "write redis://HOST:PORT/0, rediss://HOST:PORT/0, unix:///PATH/TO/redis.sock, redis://HOST:PORT,HOST:PORT for a "
    "cluster, or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"
)

_ASYNC_KIND: dict[Any, type[redis_asyncio.AbstractConnection]] = {
    redis_sync.Connection: redis_asyncio.Connection,
    redis_sync.SSLConnection: redis_asyncio.SSLConnection,
    redis_sync.UnixDomainSocketConnection: redis_asyncio.UnixDomainSocketConnection,
}


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    shown = url.replace(f":{parts.password}@", ":***@") if parts.password else url
    return shown.partition("?")[0]


class Address:
    """A URL, read. `others` are the nodes of a cluster that it names beside the first; `sentinels` is empty, but for a
    service that Sentinels watch."""

    def __init__(self, url: str) -> None:
        """Raises Refused for what is no Redis URL."""
        self.url = url
        self.others: tuple[Node, ...] = ()
        self.sentinels: tuple[Node, ...] = ()
        self.service = ""
        try:
            parts = urlsplit(url)
            if parts.scheme in ("redis+sentinel", "rediss+sentinel"):
                self._arguments = self._of_service(url)
            else:
                self._arguments = self._of_server(url)
        except ValueError:
            raise Refused("bad_redis_url", f"{without_password(url)!r} is no Redis URL: {URL_FORMS}.") from None
        self._kind = self._arguments.pop("connection_class", redis_sync.Connection)
        # An option that is none is refused here, not when Redis is first needed.
        self.connection()

    def _of_server(self, url: str) -> dict[str, Any]:
        """Notes the other nodes; redis-py's arguments for the first, or the only server."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return _parsed(url)
        login, at, hosts = parts.netloc.rpartition("@")
        first, *others = hosts.split(",")
        self.others = tuple(_node(host) for host in others)
        parts = parts._replace(netloc=login + at + first)
        _ = parts.port
        if not re.fullmatch(r"(/\d*)?", parts.path):
            raise ValueError("a database is a number")
        return _parsed(parts.geturl())

    def _of_service(self, url: str) -> dict[str, Any]:
        """Notes Sentinels and service; redis-py's arguments for the master, whose host is not known yet."""
        parts = urlsplit(url)
        login, _, hosts = parts.netloc.rpartition("@")
        self.sentinels = tuple(_node(host, _SENTINEL_PORT) for host in hosts.split(","))
        path = re.fullmatch(r"/([^/]+)(/\d*)?", parts.path)
        if not path:
            raise ValueError("the service has a name")
        self.service = path[1]
        options = parse_qs(parts.query)
        self._sentinel_password = options.pop("sentinel_password", [None])[0]
        rest = "&".join(f"{name}={value}" for name, values in options.items() for value in values)
        place = "[::1]" if not login else f"{login}@[::1]"
        return _parsed(urlunsplit((parts.scheme.partition("+")[0], place, path[2] or "", rest, "")))

    def connection(self, node: Node | None = None) -> redis_sync.AbstractConnection:
        """A connection, not connected: to the URL's server, or to another that lets us in the same way. Raises
        Refused."""
        with self._refusing_what_no_connection_takes():
            connection: redis_sync.AbstractConnection = self._kind(
                **self._arguments_at(node), retry=Retry(NoBackoff(), 0)
            )
            return connection

    def async_connection(self, node: Node | None = None) -> redis_asyncio.AbstractConnection:
        """As connection, for asyncio: without a time-out of its own for commands and replies. AsyncPipe has one for all
        of a run, and two more for each command cost as much as the reply."""
        with self._refusing_what_no_connection_takes():
            arguments = self._arguments_at(node) | {"socket_timeout": None}
            return _ASYNC_KIND[self._kind](**arguments, retry=AsyncRetry(NoBackoff(), 0))

    def sentinel(self, node: Node) -> redis_sync.AbstractConnection:
        """A connection to one of the Sentinels, not connected."""
        arguments = self._sentinel_arguments(node)
        connection: redis_sync.AbstractConnection = self._kind(**arguments, retry=Retry(NoBackoff(), 0))
        return connection

    def async_sentinel(self, node: Node) -> redis_asyncio.AbstractConnection:
        """As sentinel, for asyncio; the time-out is the caller's here too."""
        arguments = self._sentinel_arguments(node) | {"socket_timeout": None}
        return _ASYNC_KIND[self._kind](**arguments, retry=AsyncRetry(NoBackoff(), 0))

    def _arguments_at(self, node: Node | None) -> dict[str, Any]:
        return self._arguments | ({} if node is None else {"host": node[0], "port": node[1]})

    def _sentinel_arguments(self, node: Node) -> dict[str, Any]:
        """A Sentinel has no databases, and its own password, if any."""
        timeouts = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
        login = {"username": None, "password": self._sentinel_password}
        return self._arguments_at(node) | timeouts | login | {"db": 0}

    @contextlib.contextmanager
    def _refusing_what_no_connection_takes(self) -> Iterator[None]:
        """Options in the URL's query that do not exist, or whose value is none. Raises Refused."""
        try:
            yield
        except (TypeError, ValueError, RedisError):
            raise Refused(
                "bad_redis_url",
                f"The Redis URL {without_password(self.url)} has an option that is none: correct its query.",
            ) from None


def _parsed(url: str) -> dict[str, Any]:
    """redis-py's arguments for a URL, with our time-outs. Raises ValueError."""
    arguments = dict(redis_sync.parse_url(url))  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    arguments |= {"socket_timeout": REPLY_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S, "protocol": 2}
    if arguments.get("path"):
        arguments.pop("socket_connect_timeout")
    return arguments


def _node(text: str, port: int = 6379) -> Node:
    """HOST or HOST:PORT; an IPv6 host in brackets. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a server has a host")
    return parts.hostname, parts.port or port
