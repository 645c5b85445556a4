"""`GET /api/sessions/ID/events`: DECIPHER's events as Server-Sent Events, for curl and EventSource.

    from the first event that Redis has, or the one after Last-Event-ID | each new event … | the end of the response

Every event has its id in the events stream, so a client that reconnects receives what it missed, each event once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import HttpVersion11, hdrs, web

from consumers.web.api.operations import Operation, Parameter
from consumers.web.live.packets import EventPacket, event_packets, window_of_event
from consumers.web.live.shared_feeds import SharedFeeds
from consumers.web.live.sockets import Clients
from consumers.web.live.sources import SESSION_ENDED
from consumers.web.live.viewers import STALL_S
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
# An id of Redis is two numbers of 64 bits.
_MOST_OF_ID = 2**64
_MOST_ID_CHARS = 41
_TRUNCATED = b": the first events are no longer kept; GET /api/sessions/ID returns the whole text\n\n"


class EventStream:
    """The handler of the Server-Sent Events."""

    def __init__(self, pipe: AsyncPipe, events: SharedFeeds[EventPacket], clients: Clients) -> None:
        self._pipe, self._events, self._clients = pipe, events, clients

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/api/sessions/{session}/events", self.show,
                "The session's protocol events as Server-Sent Events, from the first one that is kept.",
                "text/event-stream", (404,),
                parameters=(Parameter(_LAST_EVENT_ID, "Only the events after this id.", _ID, "header"),),
            )
        ]  # fmt: skip

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Raises Refused, SessionGone and RedisAway before the first byte."""
        session = request.match_info["session"]
        after = last_event_id(request.headers.get(_LAST_EVENT_ID, ""))
        with self._clients.admitted():
            await find_session(self._pipe, session)
            if after != _BEGINNING and await self._has_all(session, after):
                # A browser's EventSource reconnects until it receives 204.
                return web.Response(status=204)
            response = web.StreamResponse(
                headers={hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8", hdrs.CACHE_CONTROL: "no-store"}
            )
            await response.prepare(request)
            try:
                is_complete = await self._send_all(request, response, session, after)
            except (CouncilError, TimeoutError):
                is_complete = False
            if not is_complete and request.transport is not None:
                # Without the end of the response, so that the client does not take it for complete.
                request.transport.abort()
        return response

    async def _has_all(self, session: str, after: str) -> bool:
        """True if the session has ended and no event follows the id `after`."""
        composed = await find_composed(self._pipe, session)
        return composed.is_over and not await read_events(self._pipe, session, after)

    async def _send_all(self, request: web.Request, response: web.StreamResponse, session: str, after: str) -> bool:
        """Sends every event after the id `after`; True if the session's last event was sent. Raises CouncilError, and
        TimeoutError for a client that receives nothing."""
        after = await self._replay(response, session, after)
        viewer = self._events.join(session, window_of_event(after))
        if viewer is None:
            return False
        try:
            if request.transport is None:
                return False
            viewer.start(request.transport, _encoding(request))
            return await viewer.done is SESSION_ENDED
        finally:
            self._events.leave(session, viewer)

    async def _replay(self, response: web.StreamResponse, session: str, after: str) -> str:
        """Sends the events that were composed before; returns the id of the last one."""
        while found := await read_events(self._pipe, session, after):
            packets, _ = event_packets(found)
            if after == _BEGINNING and found[0][0] != _FIRST_EVENT:
                await response.write(_TRUNCATED)
            async with asyncio.timeout(STALL_S):
                await response.write(b"".join([packet.server_sent() for packet in packets]))
            after = found[-1][0]
        return after


def last_event_id(header: str) -> str:
    """The id in a Last-Event-ID header; "0-0" for an empty one. Raises Refused for an invalid id."""
    if not header:
        return _BEGINNING
    if len(header) > _MOST_ID_CHARS or not is_entry_id(header) or max(entry_order(header)) >= _MOST_OF_ID:
        raise Refused(
            "bad_last_event_id",
            f"Last-Event-ID is {shortened(header)!r}: send the id of an event of this session, such as 42-0, or "
            "leave it out.",
        )
    return header


def _encoding(request: web.Request) -> Callable[[EventPacket], bytes]:
    """How the events are sent: in chunks to clients of HTTP/1.1, which know them."""
    return EventPacket.chunk if request.version >= HttpVersion11 else EventPacket.server_sent
