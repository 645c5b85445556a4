"""What every backend behind an HTTP server needs: one pooled client, patience, and sentences for what goes wrong.

    httpx.AsyncClient --> AiohttpTransport --> aiohttp's connections and its compiled parser --> the server

httpx is what backends speak; its own transport parses in Python. A chunk of a stream costs half the CPU this way: 58
instead of 113 us at 500 chunks a second (`python -m bench --only producer` measures what is left). No redirect is ever
followed, and no proxy, cookie or .netrc of the environment used: a prompt goes to the server that was named.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import aiohttp
import httpx
from yarl import URL

from producers.servers.faults import one_line

# A server that is there accepts at once, also from another room; 5 s allow for a lost packet or two.
CONNECT_S = 5.0
# There are twice as many connections as slots, for those that are being closed: none is free only by a bug of ours.
POOL_S = 5.0
# After the reason why it ended a server has only its usage and its last line to send, which it does at once.
TAIL_S = 1.0
# A refusal is short and complete when its status is sent.
REFUSAL_S = 5.0
MAX_REFUSAL_BYTES = 64 * 1024
# An idle connection that nobody asks again is given back.
_IDLE_S = 15.0
# The extension of a request that must not use a kept connection.
FRESH = "fresh"


class AiohttpTransport(httpx.AsyncBaseTransport):
    """httpx's transport over aiohttp. Raises httpx's own exceptions for what the network does."""

    def __init__(self, base: httpx.URL, connections: int, connect_s: float = CONNECT_S) -> None:
        self._connections, self._connect_s = connections, connect_s
        # Certificates take 20 ms to read, and plain HTTP has none.
        self._tls = httpx.create_ssl_context() if base.scheme == "https" else True
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Returns when the server has sent its status; the body is read as it comes."""
        session = self._session(fresh=FRESH in request.extensions)
        with _httpx_errors():
            answer = await session.request(
                request.method,
                URL(str(request.url), encoded=True),
                data=await request.aread() or None,
                headers=[(name.decode(), value.decode()) for name, value in request.headers.raw],
                allow_redirects=False,
            )
        reason = {"reason_phrase": (answer.reason or "").encode("ascii", "replace")}
        return httpx.Response(answer.status, headers=answer.raw_headers, stream=Body(answer), extensions=reason)

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _session(self, *, fresh: bool) -> aiohttp.ClientSession:
        """Made where an event loop runs; those for fresh connections keep none."""
        if fresh not in self._sessions:
            keep = {"force_close": True} if fresh else {"keepalive_timeout": _IDLE_S}
            self._sessions[fresh] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._tls, **keep),
                # No read time-out: before the first token the council counts, after it the backend does.
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=self._connect_s + POOL_S, sock_connect=self._connect_s
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._sessions[fresh]


class Body(httpx.AsyncByteStream):
    """What follows the head of an answer, as it comes."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self.answer.content
        try:
            while data := await content.readany():
                yield data
        except (aiohttp.ClientError, aiohttp.http.HttpProcessingError) as error:
            # aiohttp tells of the break before it hands out what came before the break.
            content.set_exception(None)  # type: ignore[arg-type]
            if rest := content.read_nowait():
                yield rest
            raise httpx.ReadError(str(error)) from error

    async def aclose(self) -> None:
        # The connection of an answer that was read to its end is in the pool again; any other is closed.
        self.answer.close()


@contextlib.contextmanager
def _httpx_errors() -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx.ConnectTimeout(str(error)) from error
    except aiohttp.ClientConnectorCertificateError as error:
        reason = getattr(error.certificate_error, "verify_message", "")
        raise httpx.UnsupportedProtocol(f"its certificate is not trusted: {reason}".rstrip(": ")) from error
    except aiohttp.ClientSSLError as error:
        raise httpx.UnsupportedProtocol("it does not speak TLS: is https right?") from error
    except aiohttp.ClientConnectorError as error:
        raise httpx.ConnectError(str(error)) from error
    except aiohttp.ClientConnectionError as error:
        raise httpx.ReadError(str(error)) from error
    except aiohttp.ClientResponseError as error:
        raise httpx.RemoteProtocolError(error.message) from error
    except (aiohttp.ClientError, ValueError) as error:  # a host name that cannot be, as the one or as the other
        raise httpx.UnsupportedProtocol(str(error)) from error


def http_client(
    base: httpx.URL, connections: int, auth: httpx.Auth | None, connect_s: float = CONNECT_S
) -> httpx.AsyncClient:
    """A client for the server at `base`, of at most `connections` at once."""
    headers = {"Accept": "text/event-stream, application/json", "Accept-Encoding": "identity"}
    transport = AiohttpTransport(base, connections, connect_s)
    return httpx.AsyncClient(transport=transport, auth=auth, headers=headers, trust_env=False)


async def next_bytes(reads: AsyncIterator[bytes], silent_at: float | None, finished: bool) -> bytes:
    """What the network brings next; empty at the end. Raises TimeoutError at `silent_at`, a time of the event loop.

    Once the model has finished, nothing that happens to the connection matters any more.
    """
    try:
        async with asyncio.timeout_at(silent_at):
            return await anext(reads)
    except StopAsyncIteration:
        return b""
    except (TimeoutError, httpx.TransportError):
        if finished:
            return b""
        raise


async def short_body(response: httpx.Response, most_bytes: int = MAX_REFUSAL_BYTES) -> bytes:
    """The beginning of a body that should be short; what is late or too long is left."""
    body = bytearray()
    with contextlib.suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(REFUSAL_S):
            async for part in response.aiter_raw():
                body += part
                if len(body) >= most_bytes:
                    break
    return bytes(body[:most_bytes])


def network_fault(error: httpx.HTTPError, connect_s: float = CONNECT_S) -> str:
    """What the network did, as a predicate: it makes a sentence after the server's name."""
    match error:
        case httpx.ConnectTimeout():
            return f"accepted no connection within {connect_s:g} s"
        case httpx.ConnectError():
            return "cannot be reached: is the model server running?"
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError() | httpx.CloseError():
            return "broke off the connection"
        case _:
            return f"could not be asked: {one_line(str(error), 100) or type(error).__name__}"
