"""`GET /api/sessions/ID/events`: DECIPHER's events as Server-Sent Events, for curl and EventSource.

    from the first event that Redis has, or the one after Last-Event-ID | each new event … | the end of the response

Every event has an id, so a client that reconnects receives what it missed, each event once. The id contains the nonce
of the event's entry (transport/following.py). Where Redis lost that entry, the client is refused, because its texts may
differ from what Redis has now: it must forget them, and connect without an id.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from aiohttp import HttpVersion11, hdrs, web

from consumers.web.api.operations import Operation, Parameter
from consumers.web.live.packets import EventPacket, event_packets, window_of_event
from consumers.web.live.shared_feeds import SharedFeeds
from consumers.web.live.sockets import Clients
from consumers.web.live.sources import SESSION_ENDED
from consumers.web.live.viewers import STALL_S
from schemas.errors import CouncilError, Refused
from schemas.rules.choice import shortened
from transport.events import event_id, events_after, find_composed, find_event
from transport.following import StreamEntry, StreamReader
from transport.frames import find_frame
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session

_BEGINNING = "0-0"
# Window 0's energy_update.
_FIRST_EVENT = "1-0"
_LAST_EVENT_ID = "Last-Event-ID"
# An id of Redis is two numbers of 64 bits; a nonce follows it.
_ID_PATTERN = r"^[0-9]{1,19}-[0-9]{1,19}(-[0-9a-f]{8})?$"
_ID = {"type": "string", "pattern": _ID_PATTERN}
_TRUNCATED = b": the first events are no longer kept; GET /api/sessions/ID returns the whole text\n\n"


class EventStream:
    """The handler of the Server-Sent Events."""

    def __init__(self, pipe: AsyncPipe, events: SharedFeeds[EventPacket], clients: Clients) -> None:
        self._pipe, self._events, self._clients = pipe, events, clients

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/api/sessions/{session}/events", self.show, "stream_events", "Sessions",
                "Follow a session's events",
                "Its events of the real-time protocol as Server-Sent Events, from the first one that is kept. 204: the "
                "client has all events of a session that has ended.",
                "text/event-stream", (404, 410), also={204: None},
                parameters=(Parameter(_LAST_EVENT_ID, "Only the events after this id.", _ID, "header"),),
            )
        ]  # fmt: skip

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Raises Refused, SessionGone and RedisAway before the first byte."""
        session = request.match_info["session"]
        last_id, nonce = last_event_id(request.headers.get(_LAST_EVENT_ID, ""))
        with self._clients.admitted():
            await find_session(self._pipe, session)
            last = None if last_id == _BEGINNING else await self._proven(session, last_id, nonce)
            reader = events_after(self._pipe, session, last_id, last)
            if last is not None and await self._has_all(session, last_id):
                # A browser's EventSource reconnects until it receives 204.
                return web.Response(status=204)
            response = web.StreamResponse(
                headers={hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8", hdrs.CACHE_CONTROL: "no-store"}
            )
            await response.prepare(request)
            try:
                is_complete = await self._send_all(request, response, session, reader)
            except (CouncilError, TimeoutError):
                is_complete = False
            if not is_complete and request.transport is not None:
                # Without the end of the response, so that the client does not take it for complete.
                request.transport.abort()
        return response

    async def _proven(self, session: str, entry_id: str, nonce: bytes) -> StreamEntry:
        """The event that the client has. Raises Refused where Redis has another one, or none, under this id."""
        found = await find_event(self._pipe, session, entry_id)
        if found is not None and not nonce:
            # An id as earlier versions sent it: without a nonce only an event that was never written twice is a proof.
            frame = await find_frame(self._pipe, session, window_of_event(entry_id))
            nonce = b"?" if frame is not None and frame.may_be_written_again else found.nonce
        if found is None or found.nonce != nonce:
            raise Refused(
                "events_set_back",
                "Redis does not have the event of this Last-Event-ID any more: forget the session's text, and connect "
                "without Last-Event-ID.",
                status=410,
            )
        return found

    async def _has_all(self, session: str, after: str) -> bool:
        """True if the session has ended and no event follows the id `after`."""
        composed = await find_composed(self._pipe, session)
        return composed.is_over and not await events_after(self._pipe, session, after).read()

    async def _send_all(
        self, request: web.Request, response: web.StreamResponse, session: str, reader: StreamReader
    ) -> bool:
        """Sends every event that the reader reads, and those that follow; True if the session's last event was sent.
        Raises CouncilError, and TimeoutError for a client that receives nothing."""
        await self._replay(response, reader)
        viewer = self._events.join(session, window_of_event(reader.after), last=reader.last)
        if viewer is None:
            return False
        try:
            if request.transport is None:
                return False
            viewer.start(request.transport, _encoding(request))
            return await viewer.done is SESSION_ENDED
        finally:
            self._events.leave(session, viewer)

    async def _replay(self, response: web.StreamResponse, reader: StreamReader) -> None:
        """Sends the events that were composed before."""
        is_beginning = reader.after == _BEGINNING
        while found := await reader.read():
            packets, _ = event_packets([(event_id(entry), entry.raw) for entry in found])
            if is_beginning and found[0].entry_id != _FIRST_EVENT:
                await response.write(_TRUNCATED)
            is_beginning = False
            async with asyncio.timeout(STALL_S):
                await response.write(b"".join([packet.server_sent() for packet in packets]))


def last_event_id(header: str) -> tuple[str, bytes]:
    """(the entry's id, its nonce) in a Last-Event-ID header; "0-0" and no nonce for an empty one. Earlier versions sent
    ids without a nonce. Raises Refused for an invalid id."""
    if not header:
        return _BEGINNING, b""
    if not re.fullmatch(_ID_PATTERN, header):
        raise Refused(
            "bad_last_event_id",
            f"Last-Event-ID is {shortened(header)!r}: send the id of an event of this session, such as "
            "42-0-9f3ac2d1, or leave it out.",
        )
    ms, number, nonce = (*header.split("-"), "")[:3]
    return f"{ms}-{number}", nonce.encode()


def _encoding(request: web.Request) -> Callable[[EventPacket], bytes]:
    """How the events are sent: in chunks to clients of HTTP/1.1, which know them."""
    return EventPacket.chunk if request.version >= HttpVersion11 else EventPacket.server_sent
