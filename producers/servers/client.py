"""The HTTP client of all backends: one pool of connections, time limits, and sentences for network errors.

    httpx.AsyncClient --> AiohttpTransport --> aiohttp's connections and its compiled parser --> the server

Backends use httpx's interface; its own transport parses in Python. With aiohttp's transport a chunk of a stream costs
half the CPU: 58 instead of 113 us at 500 chunks a second (`python -m bench --only producer` measures the rest). No
redirect is followed, and no proxy, cookie or .netrc of the environment is used: a prompt goes to the configured server
only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import aiohttp
import httpx
from yarl import URL

from producers.servers.encoding import decoded_parts
from producers.servers.faults import ServerFault, one_line
from producers.servers.recorded import Exchange, RecordingTransport

# A running server accepts at once, also over a local network; 5 s allow for a lost packet or two.
CONNECT_S = 5.0
# There are twice as many connections as slots, because some are being closed: only a bug can make this wait end.
POOL_S = 5.0
# A refusal is short, and complete when its status is sent.
REFUSAL_S = 5.0
MAX_REFUSAL_BYTES = 64 * 1024
# An idle connection is closed after this.
_IDLE_S = 15.0
# An extension of a request: it must not use a kept connection.
FRESH = "fresh"


class AiohttpTransport(httpx.AsyncBaseTransport):
    """httpx's transport over aiohttp. Raises httpx's exceptions for network errors."""

    def __init__(self, base: httpx.URL, connections: int, connect_s: float = CONNECT_S) -> None:
        self._connections, self._connect_s = connections, connect_s
        # Certificates take 20 ms to read, and plain HTTP has none.
        self._tls = httpx.create_ssl_context() if base.scheme == "https" else True
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Returns when the server has sent its status and headers; the body is read as it arrives."""
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
        """Made in the running event loop; the one for fresh connections keeps none of them open."""
        if fresh not in self._sessions:
            keep = {"force_close": True} if fresh else {"keepalive_timeout": _IDLE_S}
            self._sessions[fresh] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._tls, **keep),
                # No read timeout: before the first token the session's limit applies, then the backend's.
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=self._connect_s + POOL_S, sock_connect=self._connect_s
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._sessions[fresh]


class Body(httpx.AsyncByteStream):
    """The body of an answer, as it arrives."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self.answer.content
        try:
            while data := await content.readany():
                yield data
        except (aiohttp.ClientError, aiohttp.http.HttpProcessingError) as error:
            # aiohttp raises the error before it returns the bytes that arrived before it.
            content.set_exception(None)  # type: ignore[arg-type]
            if rest := content.read_nowait():
                yield rest
            raise httpx.ReadError(str(error)) from error

    async def aclose(self) -> None:
        # After a complete answer the connection is in the pool again; otherwise it is closed.
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
        raise httpx.UnsupportedProtocol("it does not use TLS: try http:// instead of https://") from error
    except aiohttp.ClientConnectorError as error:
        raise httpx.ConnectError(str(error)) from error
    except aiohttp.ClientConnectionError as error:
        raise httpx.ReadError(str(error)) from error
    except aiohttp.ClientResponseError as error:
        raise httpx.RemoteProtocolError(error.message) from error
    except (aiohttp.ClientError, ValueError) as error:  # a host name that is not valid raises the one or the other
        raise httpx.UnsupportedProtocol(str(error)) from error


def http_client(
    base: httpx.URL,
    connections: int,
    auth: httpx.Auth | None,
    connect_s: float = CONNECT_S,
    exchanges: list[Exchange] | None = None,
) -> httpx.AsyncClient:
    """A client for the server at `base`, with at most `connections` at once. `exchanges` receives what is sent and what
    comes back."""
    headers = {"Accept": "text/event-stream, application/json", "Accept-Encoding": "identity"}
    transport: httpx.AsyncBaseTransport = AiohttpTransport(base, connections, connect_s)
    if exchanges is not None:
        transport = RecordingTransport(transport, exchanges)
    return httpx.AsyncClient(transport=transport, auth=auth, headers=headers, trust_env=False)


async def send(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """The head of the answer, whatever its status; the body is read by the caller, which closes it.

    A server may have closed a connection that was kept: llama-server promises to keep one and closes it after each
    stream, so of 15 requests that came at once over the same one, 3 found it closed. Nothing was answered then, so the
    request is sent once more, on a new connection. Raises httpx.TransportError.
    """
    try:
        return await client.send(request, stream=True)
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
        request.extensions[FRESH] = True
        return await client.send(request, stream=True)


async def short_body(response: httpx.Response, most_bytes: int = MAX_REFUSAL_BYTES) -> bytes:
    """The beginning of a body that should be short; a late or longer rest is not read."""
    body = bytearray()
    with contextlib.suppress(TimeoutError, httpx.TransportError, ServerFault):
        async with asyncio.timeout(REFUSAL_S):
            async for part in decoded_parts(response):
                body += part
                if len(body) >= most_bytes:
                    break
    return bytes(body[:most_bytes])


def network_fault(error: httpx.HTTPError, connect_s: float = CONNECT_S, server: str = "the model server") -> str:
    """What the network did, as a predicate that follows the server's name."""
    match error:
        case httpx.ConnectTimeout():
            return f"did not accept a connection within {connect_s:g} s"
        case httpx.ConnectError():
            return f"cannot be reached: check that {server} is running"
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError() | httpx.CloseError():
            return "closed the connection unexpectedly"
        case _:
            return f"cannot be used: {one_line(str(error), 100) or type(error).__name__}"
