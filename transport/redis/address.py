"""The address in a Redis URL: one server (which may be a node of a cluster), or the master that Sentinels name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

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
HOW_TO_ENCODE = (
    "in a user name or password write %23 for #, %2F for /, %3F for ?, %40 for @, %3A for :, %5B for [, %5D for ], "
    "%25 for % and %20 for a space"
)

# Exactly what a URL may be. A character that must be percent-encoded is refused and not interpreted: urllib would take
# `redis://:S3cr3t#Pw9@host` for a host without a password, and show the rest of the password as a fragment.
_SCHEME = r"(?P<scheme>rediss?(?:\+sentinel)?|unix)://"
_HOST = r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\])(?::[0-9]{1,5})?"
_HOSTS = rf"(?P<hosts>{_HOST}(?:,{_HOST})*)"
_ENCODED = "%[0-9A-Fa-f]{2}"
_LOGIN = rf"(?:(?P<login>(?:[^\x00-\x20\x7f#/?@%\[\]]|{_ENCODED})*)@)?"
_QUERY = rf"(?:\?(?P<query>(?:[^\x00-\x20\x7f#@%]|{_ENCODED})*))?"
_ON_NETWORK = re.compile(rf"{_SCHEME}{_LOGIN}{_HOSTS}(?P<path>/[^\x00-\x20\x7f#@?%]*)?{_QUERY}")
# Behind a login, a raw @ in the path may end the password: it is refused there.
_ON_SOCKET = re.compile(rf"{_SCHEME}{_LOGIN}(?P<path>/(?(login)[^\x00-\x1f\x7f#?@]|[^\x00-\x1f\x7f#?])+){_QUERY}")
# Where nothing but what follows the host is wrong, and holds no @ that may end a password, the host is certain.
_CERTAIN_HOST = re.compile(rf"{_SCHEME}(?:[^#/?@]*@)?{_HOSTS}(?:[#/?][^@]*)?", re.DOTALL)
_OF_SERVER, _OF_SERVICE = re.compile(r"(?:/[0-9]*)?"), re.compile(r"/(?P<service>[^/]+)(?P<db>/[0-9]*)?")

# The options of a URL, beside the logins. redis-py takes more, some of which are objects: as text they would only fail
# at the first connection, with a traceback.
_OPTIONS = frozenset(
    ("db", "client_name", "socket_keepalive", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs",
     "ssl_certfile", "ssl_check_hostname", "ssl_ciphers", "ssl_keyfile", "ssl_password", OPTION)
)  # fmt: skip

_LOGIN_OPTIONS = frozenset(("username", "password", "sentinel_username", "sentinel_password"))

_ASYNC_KIND: dict[Any, type[redis_asyncio.AbstractConnection]] = {
    redis_sync.Connection: redis_asyncio.Connection,
    redis_sync.SSLConnection: redis_asyncio.SSLConnection,
    redis_sync.UnixDomainSocketConnection: redis_asyncio.UnixDomainSocketConnection,
}


def without_password(url: str) -> str:
    """The URL as it may be shown: without user name, password and query. Of a URL that is not valid only the scheme and
    the hosts, if it is certain what they are."""
    if found := _match(url):
        return f"{found['scheme']}://{found.groupdict().get('hosts', '')}{found['path'] or ''}"
    if (found := _CERTAIN_HOST.fullmatch(url)) and found["scheme"] != "unix":
        return f"{found['scheme']}://{found['hosts']}"
    found = re.match(_SCHEME, url)
    return f"{found['scheme']}://…" if found else ""


def contains_secret(text: str) -> bool:
    """True for a Redis URL, valid or not, of which a part is not shown."""
    return re.match(_SCHEME, text) is not None and without_password(text) != text


def _match(url: str) -> re.Match[str] | None:
    """The parts of a valid URL; None for any other."""
    if url.startswith("unix:"):
        return _ON_SOCKET.fullmatch(url)
    found = _ON_NETWORK.fullmatch(url)
    path = _OF_SERVICE if found and found["scheme"].endswith("+sentinel") else _OF_SERVER
    return found if found and path.fullmatch(found["path"] or "") else None


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
            self._arguments = self._parse(url)
        except ValueError:
            shown = repr(without_password(url)) if without_password(url) else "This text"
            raise Refused("bad_redis_url", f"{shown} is not a valid Redis URL: {URL_FORMS}; {HOW_TO_ENCODE}.") from None
        self._kind = self._arguments.pop("connection_class", redis_sync.Connection)
        self.prefix = checked_prefix(self._arguments.pop(OPTION, DEFAULT_PREFIX))
        # An unknown option is refused here, not when Redis is first needed.
        self.connection()

    def _parse(self, url: str) -> dict[str, Any]:
        """redis-py's arguments for the server, the first of several, or the master, whose host is not known yet; sets
        `others`, or `sentinels` and `service`. Raises ValueError."""
        url.encode()  # it raises for bytes of an environment variable that are not text
        found = _match(url)
        if not found:
            raise ValueError("it has another form, or a character that must be percent-encoded")
        options = dict(parse_qsl(found["query"] or "", keep_blank_values=True, errors="strict"))
        self._sentinel_login = _login_in(options, "sentinel_")
        login = _login_in(options)
        if found["login"]:
            user, _, password = found["login"].partition(":")
            login = {"username": _decoded(user), "password": _decoded(password)}
        if options.keys() - _OPTIONS:
            raise self._bad_option()
        scheme, path, host = found["scheme"], found["path"] or "", ""
        if scheme.endswith("+sentinel"):
            self.sentinels = tuple(_node(host, _SENTINEL_PORT) for host in found["hosts"].split(","))
            service = _OF_SERVICE.fullmatch(path)
            assert service
            self.service, path = service["service"], service["db"] or ""
            scheme, host = scheme.partition("+")[0], "[::1]"
        elif scheme != "unix":
            host, *others = found["hosts"].split(",")
            _node(host)
            self.others = tuple(map(_node, others))
        return _parsed(f"{scheme}://{host}{path}?{urlencode(options)}") | login

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
        """redis-py's arguments for a Sentinel, which has no databases, and its own login, if any."""
        timeouts = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
        return self._arguments_at(node) | timeouts | self._sentinel_login | {"db": 0}

    @contextlib.contextmanager
    def _refusing_unknown_options(self) -> Iterator[None]:
        """Raises Refused for options in the URL's query that redis-py does not accept."""
        try:
            yield
        except (TypeError, ValueError, RedisError):
            raise self._bad_option() from None

    def _bad_option(self) -> Refused:
        return Refused(
            "bad_redis_url",
            f"The Redis URL {without_password(self.url)} has an option that is unknown or has an invalid value: "
            f"correct its query string; known options: {', '.join(sorted(_OPTIONS | _LOGIN_OPTIONS))}.",
        )


def _login_in(options: dict[str, str], prefix: str = "") -> dict[str, str | None]:
    """redis-py's arguments for the user name and the password among the options, which it takes out of them."""
    return {name: options.pop(prefix + name, None) or None for name in ("username", "password")}


def _decoded(text: str) -> str | None:
    """The text without percent-encoding; None for an empty one. Raises ValueError where it is not UTF-8."""
    return unquote(text, errors="strict") or None


def _parsed(url: str) -> dict[str, Any]:
    """redis-py's arguments for a URL without a login, with our time-outs. Raises ValueError."""
    arguments = dict(redis_sync.parse_url(url))  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    arguments |= {"socket_timeout": REPLY_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S, "protocol": 2}
    # Without it redis-py sends CLIENT SETINFO first, which is a right of its own.
    arguments["driver_info"] = None
    if arguments.get("path"):
        arguments.pop("socket_connect_timeout")
    return arguments


def _node(text: str, port: int = 6379) -> Node:
    """HOST or HOST:PORT; an IPv6 host in brackets. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port == 0:
        raise ValueError("the host or the port is missing")
    parts.hostname.encode("idna")  # as a connection does; it raises for a label that is empty or too long
    return parts.hostname, parts.port or port
