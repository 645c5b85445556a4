"""What was sent to a server and what came back, for `council check`. Headers are left out: they contain the API key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx

# A check asks for two tokens; a list of models may be long, and its beginning is enough.
MAX_BODY_BYTES = 64 * 1024
# A check sends some ten requests.
MAX_EXCHANGES = 64


@dataclass
class Exchange:
    """One request and its answer. `status` 0: no answer came. `url` has no credentials."""

    method: str
    url: str
    sent: bytes
    status: int = 0
    received: bytes = b""


class RecordingTransport(httpx.AsyncBaseTransport):
    """Passes requests on, and appends each to `exchanges`."""

    def __init__(self, inner: httpx.AsyncBaseTransport, exchanges: list[Exchange]) -> None:
        self._inner, self._exchanges = inner, exchanges

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = Exchange(request.method, str(request.url), await request.aread())
        if len(self._exchanges) < MAX_EXCHANGES:
            self._exchanges.append(exchange)
        response = await self._inner.handle_async_request(request)
        exchange.status = response.status_code
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _RecordedBody(response.stream, exchange)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _RecordedBody(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, exchange: Exchange) -> None:
        self._inner, self._exchange = inner, exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            room = MAX_BODY_BYTES - len(self._exchange.received)
            self._exchange.received += part[: max(0, room)]
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()
