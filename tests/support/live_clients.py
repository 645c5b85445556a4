"""Clients of `/ws`, `/frames` and the Server-Sent Events that connect again, as a user's program does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from aiohttp import WSMsgType

from schemas.events import EnergyUpdate, Event, Heartbeat, ProtocolMessage, StartupComplete, frame_number_of
from tests.support.protocol import checked, texts_by_model
from tests.support.waiting import until
from tests.support.web_server import WebServer

_AGAIN_S = 0.05
_BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError)
_READ_S = 20.0
_ENOUGH_S = 60.0


class Closed(ConnectionError):
    """The server closed the socket with this code, or refused the request with this status."""

    def __init__(self, code: int | None, words: object) -> None:
        super().__init__(f"{code} {words}")
        self.code = code


# Redis lost the newest data of the session.
_SET_BACK = (1013, 410)


class LiveClient:
    """Reads to the end of a session, and connects again when its connection breaks. `breaks` counts that, `set_backs`
    how often it had to start again because Redis lost data."""

    def __init__(self, client: aiohttp.ClientSession, web: WebServer, session: str) -> None:
        self.client, self.web, self.session = client, web, session
        self.breaks = self.set_backs = 0
        self.has_received = asyncio.Event()

    async def read(self) -> None:
        """Reads to the end of the session."""
        while True:
            with contextlib.suppress(*_BROKEN):
                try:
                    if await self.read_connection():
                        return
                except Closed as closed:
                    if closed.code in _SET_BACK:
                        self.set_backs += 1
                        self.forget()
            self.breaks += 1
            await asyncio.sleep(_AGAIN_S)

    async def read_connection(self) -> bool:
        """Reads one connection; True at the end of the session. Raises aiohttp's errors where the connection breaks."""
        raise NotImplementedError

    def forget(self) -> None:
        """Forgets what was received."""
        raise NotImplementedError


class ProtocolClient(LiveClient):
    """Of `/ws`. `events` are all but startup_complete and heartbeats; it connects again from the last frame number."""

    def __init__(self, client: aiohttp.ClientSession, web: WebServer, session: str, members: int) -> None:
        super().__init__(client, web, session)
        self._members = members
        self.events: list[Event] = []
        self.heartbeats: list[Heartbeat] = []

    @property
    def is_over(self) -> bool:
        """True when every member is complete."""
        complete = {e.payload.modelId for e in self.events if getattr(e.payload, "isComplete", False)}
        return len(complete) == self._members

    @property
    def seen(self) -> int | None:
        """The last frame number, None before the first one."""
        numbers = [number for event in self.events if (number := frame_number_of(event)) is not None]
        return numbers[-1] if numbers else None

    def forget(self) -> None:
        self.events.clear()

    async def read_connection(self) -> bool:
        after = "" if self.seen is None else f"&after={self.seen}"
        async with self.client.ws_connect(f"{self.web.http}/ws?session={self.session}{after}") as socket:
            first = checked(await text_of(socket))
            assert isinstance(first, StartupComplete)
            while not self.is_over:
                message = checked(await text_of(socket))
                assert not isinstance(message, StartupComplete)
                if isinstance(message, Heartbeat):
                    self.heartbeats.append(message)
                else:
                    self.events.append(message)
                    self.has_received.set()
        return True


class FramesClient(LiveClient):
    """Of `/frames`. `frames` has each window once; it connects again behind the last one, whose cut proves it."""

    def __init__(self, client: aiohttp.ClientSession, web: WebServer, session: str) -> None:
        super().__init__(client, web, session)
        self.frames: list[dict[str, Any]] = []

    def forget(self) -> None:
        self.frames.clear()

    async def read_connection(self) -> bool:
        last = self.frames[-1] if self.frames else None
        behind = f"&from={last['window_index'] + 1}&cut={last['cut']}" if last else ""
        async with self.client.ws_connect(f"{self.web.http}/frames?session={self.session}{behind}") as socket:
            while not (self.frames and self.frames[-1]["final"]):
                frame = json.loads(await text_of(socket))
                if not self.frames or frame["window_index"] > self.frames[-1]["window_index"]:
                    self.frames.append(frame)
                    self.has_received.set()
        return True


class EventStreamClient(LiveClient):
    """Of the Server-Sent Events; it connects again from the last id. `entries` are (id, event)."""

    def __init__(self, client: aiohttp.ClientSession, web: WebServer, session: str) -> None:
        super().__init__(client, web, session)
        self.entries: list[tuple[str, Event]] = []
        self.last_id = ""

    def forget(self) -> None:
        self.entries.clear()
        self.last_id = ""

    async def read_connection(self) -> bool:
        async for entry_id, event in server_sent_events(self.client, self.web, self.session, self.last_id):
            self.entries.append((entry_id, event))
            self.last_id = entry_id or self.last_id
            self.has_received.set()
        return True


async def server_sent_events(
    client: aiohttp.ClientSession, web: WebServer, session: str, last_id: str = ""
) -> AsyncIterator[tuple[str, Event]]:
    """Each event with its id ('' where it has none), to the end of the response. Raises where the response is cut."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=_READ_S)
    async with client.get(f"{web.http}/api/sessions/{session}/events", headers=headers, timeout=timeout) as answer:
        if answer.status == 204:
            return
        if answer.status == 410:
            raise Closed(410, await answer.text())
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        fields: dict[str, str] = {}
        async for line in answer.content:
            text = line.decode().removesuffix("\n")
            if text:
                name, _, value = text.partition(": ")
                fields[name] = value
            elif "data" in fields:
                message = checked(fields["data"])
                assert message.__struct_config__.tag == fields["event"]
                yield fields.get("id", ""), message  # type: ignore[misc]
                fields = {}


async def text_of(socket: aiohttp.ClientWebSocketResponse, timeout_s: float = _READ_S) -> str:
    """The next text message. Raises Closed where the socket is closed."""
    message = await socket.receive(timeout_s)
    if message.type is not WSMsgType.TEXT:
        raise Closed(socket.close_code, message.extra)
    return str(message.data)


async def messages_until(
    socket: aiohttp.ClientWebSocketResponse, is_enough: Callable[[list[ProtocolMessage]], Any]
) -> list[ProtocolMessage]:
    """The messages of the protocol, each of them checked, until `is_enough` is true for them. Heartbeats go on, so a
    message that does not come ends the wait by time alone."""
    found: list[ProtocolMessage] = []
    async with asyncio.timeout(_ENOUGH_S):
        while not is_enough(found):
            found.append(checked(await text_of(socket)))
    return found


def text_ends_with(text: str) -> Callable[[list[ProtocolMessage]], bool]:
    """A condition for messages_until: the text of a model ends with `text`."""
    return lambda messages: any(whole.endswith(text) for whole in texts_by_model(messages).values())


def energies(events: list[Event]) -> dict[int, float]:
    """The ensemble's energy by frame number."""
    return {event.frameNumber: event.payload.totalEnergy for event in events if isinstance(event, EnergyUpdate)}


async def all_receive(*readers: LiveClient) -> None:
    """Waits until each client has received a new message."""
    for reader in readers:
        reader.has_received.clear()

    async def have_received() -> bool:
        return all(reader.has_received.is_set() for reader in readers)

    await until(have_received, "every client receives a message")
