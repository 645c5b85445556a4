"""The address in a Redis URL: one server (which may be a node of a cluster), or the master that Sentinels name."""

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
from transport.redis.prefix import DEFAULT_PREFIX, OPTION, checked_prefix

# Host and port of a server.
Node = tuple[str, int]

# A Redis that runs replies in milliseconds; without a reply within this time it is treated as away.
REPLY_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 3.0
# A Sentinel replies from memory; without a reply the next one is asked.
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
    """The URL without its password and its query, to be shown."""
    parts = urlsplit(url)
    shown = url.replace(f":{parts.password}@", ":***@") if parts.password else url
    return shown.partition("?")[0]


class Address:
    """A parsed URL. `others` are the nodes of a cluster that it names after the first one; `sentinels` is empty unless
    it names a service that Sentinels watch. All keys of the council begin with `prefix`."""

    def __init__(self, url: str) -> None:
        """Raises Refused for a URL that is not a valid Redis URL."""
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
            raise Refused(
                "bad_redis_url", f"{without_password(url)!r} is not a valid Redis URL: {URL_FORMS}."
            ) from None
        self._kind = self._arguments.pop("connection_class", redis_sync.Connection)
        self.prefix = checked_prefix(self._arguments.pop(OPTION, DEFAULT_PREFIX))
        # An unknown option is refused here, not when Redis is first needed.
        self.connection()

    def _of_server(self, url: str) -> dict[str, Any]:
        """redis-py's arguments for the first or only server; sets `others`. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return _parsed(url)
        login, at, hosts = parts.netloc.rpartition("@")
        first, *others = hosts.split(",")
        self.others = tuple(_node(host) for host in others)
        parts = parts._replace(netloc=login + at + first)
        _ = parts.port
        if not re.fullmatch(r"(/\d*)?", parts.path):
            raise ValueError("the database is not a number")
        return _parsed(parts.geturl())

    def _of_service(self, url: str) -> dict[str, Any]:
        """redis-py's arguments for the master, whose host is not known yet; sets `sentinels` and `service`. Raises
        ValueError."""
        parts = urlsplit(url)
        login, _, hosts = parts.netloc.rpartition("@")
        self.sentinels = tuple(_node(host, _SENTINEL_PORT) for host in hosts.split(","))
        path = re.fullmatch(r"/([^/]+)(/\d*)?", parts.path)
        if not path:
            raise ValueError("the name of the service is missing")
        self.service = path[1]
        options = parse_qs(parts.query)
        self._sentinel_password = options.pop("sentinel_password", [None])[0]
        rest = "&".join(f"{name}={value}" for name, values in options.items() for value in values)
        host = "[::1]" if not login else f"{login}@[::1]"
        return _parsed(urlunsplit((parts.scheme.partition("+")[0], host, path[2] or "", rest, "")))

    def connection(self, node: Node | None = None) -> redis_sync.AbstractConnection:
        """A connection, not connected yet: to the URL's server, or to another node with the same login. Raises
        Refused."""
        with self._refusing_unknown_options():
            connection: redis_sync.AbstractConnection = self._kind(
                **self._arguments_at(node), retry=Retry(NoBackoff(), 0)
            )
            return connection

    def async_connection(self, node: Node | None = None) -> redis_asyncio.AbstractConnection:
        """As connection, for asyncio, without a time-out for commands and replies: a pipe has one for all of a run, and
        two more for each command cost as much as the reply."""
        with self._refusing_unknown_options():
            arguments = self._arguments_at(node) | {"socket_timeout": None}
            return _ASYNC_KIND[self._kind](**arguments, retry=AsyncRetry(NoBackoff(), 0))

    def sentinel(self, node: Node) -> redis_sync.AbstractConnection:
        """A connection to one of the Sentinels, not connected yet."""
        arguments = self._sentinel_arguments(node)
        connection: redis_sync.AbstractConnection = self._kind(**arguments, retry=Retry(NoBackoff(), 0))
        return connection

    def async_sentinel(self, node: Node) -> redis_asyncio.AbstractConnection:
        """As sentinel, for asyncio, without a time-out: the caller has one."""
        arguments = self._sentinel_arguments(node) | {"socket_timeout": None}
        return _ASYNC_KIND[self._kind](**arguments, retry=AsyncRetry(NoBackoff(), 0))

    def _arguments_at(self, node: Node | None) -> dict[str, Any]:
        return self._arguments | ({} if node is None else {"host": node[0], "port": node[1]})

    def _sentinel_arguments(self, node: Node) -> dict[str, Any]:
        """redis-py's arguments for a Sentinel, which has no databases, and its own password, if any."""
        timeouts = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
        login = {"username": None, "password": self._sentinel_password}
        return self._arguments_at(node) | timeouts | login | {"db": 0}

    @contextlib.contextmanager
    def _refusing_unknown_options(self) -> Iterator[None]:
        """Raises Refused for options in the URL's query that redis-py does not accept."""
        try:
            yield
        except (TypeError, ValueError, RedisError):
            raise Refused(
                "bad_redis_url",
                f"The Redis URL {without_password(self.url)} has an option that is unknown or has an invalid value: "
                "correct its query string.",
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
        raise ValueError("the host is missing")
    return parts.hostname, parts.port or port
