"""`GET /api/sessions/ID/events`: DECIPHER's events as Server-Sent Events, for curl and EventSource.

    from the first one that is kept, or the one after Last-Event-ID | each as it comes … | the end of the answer

Every event carries its id of the events stream, so a client that comes back gets what it missed, each once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import HttpVersion11, hdrs, web

from consumers.web.api.operations import Operation, Parameter
from consumers.web.door.query import known_parameters
from consumers.web.live.packets import EventPacket, event_packets, window_of_event
from consumers.web.live.sockets import Clients
from consumers.web.live.sources import ENDED
from consumers.web.live.viewers import PATIENCE_S
from consumers.web.live.watching import Watched
from schemas.errors import CouncilError, Refused
from schemas.keys import entry_order, is_entry_id
from schemas.rules.choice import shortened
from transport.events import find_composed, read_events
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session

_BEGINNING = "0-0"
# Window 0's energy_update.
_FIRST_EVENT = "1-0"
_LAST_EVENT_ID = "Last-Event-ID"
_ID = {"type": "string", "pattern": r"^[0-9]+-[0-9]+$"}
# Redis's ids are two numbers of 64 bits.
_MOST_OF_ID = 2**64
_MOST_ID_CHARS = 41
_NOT_WHOLE = b": the beginning is no longer kept; GET /api/sessions/ID has the whole text\n\n"


class EventStream:
    """The handler."""

    def __init__(self, pipe: AsyncPipe, events: Watched[EventPacket], clients: Clients) -> None:
        self._pipe, self._events, self._clients = pipe, events, clients

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/api/sessions/{session}/events", self.show,
                "The protocol's events as Server-Sent Events, from the first one that is kept.", "text/event-stream",
                (404,), parameters=(Parameter(_LAST_EVENT_ID, "What comes after this id.", _ID, "header"),),
            )
        ]  # fmt: skip

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Raises Refused, SessionGone and RedisAway before the first byte."""
        known_parameters(request.query, ())
        session = request.match_info["session"]
        after = last_event_id(request.headers.get(_LAST_EVENT_ID, ""))
        with self._clients.admitted():
            await find_session(self._pipe, session)
            if after != _BEGINNING and await self._is_over(session, after):
                # An EventSource comes back until it is told that there is nothing more.
                return web.Response(status=204)
            response = web.StreamResponse(
                headers={hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8", hdrs.CACHE_CONTROL: "no-store"}
            )
            await response.prepare(request)
            try:
                is_whole = await self._tell(request, response, session, after)
            except (CouncilError, TimeoutError):
                is_whole = False
            if not is_whole and request.transport is not None:
                # Without the end of the answer, so that nobody takes it for the whole.
                request.transport.abort()
        return response

    async def _is_over(self, session: str, after: str) -> bool:
        composed = await find_composed(self._pipe, session)
        return composed.is_over and not await read_events(self._pipe, session, after)

    async def _tell(self, request: web.Request, response: web.StreamResponse, session: str, after: str) -> bool:
        """Every event after the id `after`; True where that was all of them. Raises CouncilError, and TimeoutError for
        a client that takes nothing."""
        after = await self._replay(response, session, after)
        viewer = self._events.join(session, window_of_event(after))
        if viewer is None:
            return False
        try:
            if request.transport is None:
                return False
            viewer.start(request.transport, _wire(request))
            return await viewer.done is ENDED
        finally:
            self._events.leave(session, viewer)

    async def _replay(self, response: web.StreamResponse, session: str, after: str) -> str:
        """What has been composed already; the id of the last of it."""
        while found := await read_events(self._pipe, session, after):
            packets, _ = event_packets(found)
            if after == _BEGINNING and found[0][0] != _FIRST_EVENT:
                await response.write(_NOT_WHOLE)
            async with asyncio.timeout(PATIENCE_S):
                await response.write(b"".join([packet.server_sent() for packet in packets]))
            after = found[-1][0]
        return after


def last_event_id(written: str) -> str:
    """The id of a Last-Event-ID header; the beginning where there is none. Raises Refused for what is no id."""
    if not written:
        return _BEGINNING
    if len(written) > _MOST_ID_CHARS or not is_entry_id(written) or max(entry_order(written)) >= _MOST_OF_ID:
        raise Refused(
            "bad_last_event_id",
            f"Last-Event-ID is {shortened(written)!r}: send the id of an event of this session, such as 42-0, or "
            "leave it out.",
        )
    return written


def _wire(request: web.Request) -> Callable[[EventPacket], bytes]:
    """How the events go to the client: in chunks, where its HTTP knows them."""
    return EventPacket.chunk if request.version >= HttpVersion11 else EventPacket.server_sent
