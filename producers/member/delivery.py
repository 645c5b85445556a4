"""Delivers one member's entries to Redis: the loop around an Outbox, which decides what is written when."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import Any

from producers.backend import Ending, Piece
from producers.member.draft import Branch, Draft
from producers.member.grants import GrantGate, next_look_s
from producers.member.outbox import MemberState, Outbox, Replies, RoundTrip, Sign
from runtime.presence import RedisPresence
from schemas.entries import Token
from schemas.errors import RedisAway
from schemas.keys import tokens
from transport.redis.cluster import KeyedCommand, SessionNode
from transport.redis.connection import AsyncPipe, Command, ReplyError, redis_ns
from transport.sessions import read_state, session_state
from transport.tokens import RisingClock, control_read, read_control, write_entry

_RETRY_S = 0.25
# A break so soon after the last one is the same break.
_BROKEN_AGAIN_S = 1.0
# Tokens that come within a quarter of a window of each other share a round trip: above 250 tokens a second the round
# trips would cost more than all other work on the tokens. The first token waits for no rest after a sign of life.
_REST_S = 0.004


class Delivery:
    """Of one claim. The arguments are those of Outbox, and where to write."""

    def __init__(
        self,
        pipe: AsyncPipe,
        session: str,
        member: int,
        claim: str,
        presence: RedisPresence,
        gate: GrantGate | None = None,
        draft: Draft | None = None,
        *,
        is_ready: bool = True,
    ) -> None:
        self.outbox = Outbox(member, claim, gate, draft, is_ready=is_ready)
        self._pipe, self._session, self._member, self._presence = pipe, session, member, presence
        # A pipe that has never connected makes its first connection, which follows no break.
        self._node, self._connections = SessionNode(), pipe.connections or 1
        self._clock = RisingClock()
        self._news, self._granted, self._turned = asyncio.Event(), asyncio.Event(), asyncio.Event()
        # One round trip of this claim at a time: its replies say which entries the next one writes.
        self._turn = asyncio.Lock()
        self._broken_s = -math.inf

    @property
    def has_begun(self) -> bool:
        """True once the model has produced a token."""
        return self.outbox.has_begun

    @property
    def branch(self) -> Branch:
        """The present branch: another object after each steer."""
        return self.outbox.branch

    def add(self, pieces: tuple[Piece, ...]) -> None:
        """Pieces that arrived now, together."""
        self.outbox.add(pieces, self._clock.now_ns())
        self._news.set()

    def show(self, sign: Sign) -> None:
        """Sets the sign of life."""
        self.outbox.show(sign)
        self._news.set()

    def starve(self, reason: str, *, room_helps: bool) -> None:
        """There is no memory for the model."""
        self.outbox.starve(reason, room_helps=room_helps)
        self._news.set()

    def finish(self, ending: Ending) -> None:
        """The model has ended its text."""
        self.outbox.finish(ending)
        self._news.set()

    def fail(self, reason: str) -> None:
        self.outbox.fail(reason)
        self._news.set()

    async def wait_for_grant(self) -> None:
        """Returns when the next token may be taken from the backend."""
        while self.outbox.is_held:
            self._granted.clear()
            await self._granted.wait()

    async def wait_for_steer(self, branch: Branch) -> None:
        """Returns when this branch is not the present one any more."""
        while self.branch is branch:
            self._turned.clear()
            await self._turned.wait()

    async def run(self) -> None:
        """Writes until the ending is confirmed, or until the session needs nothing more of the member."""
        while not self.outbox.is_done(time.monotonic()):
            wait_s = self.outbox.wait_s(time.monotonic())
            if wait_s > 0.0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._news.wait()
            self._news.clear()
            try:
                if await self.flush():
                    await asyncio.sleep(_REST_S)
            except RedisAway as error:
                self._presence.lose(error)
                # At once where another caller of the connection met the break. A server may also accept a connection
                # and reads, and no writes.
                before_s, self._broken_s = self._broken_s, time.monotonic()
                await asyncio.sleep(_RETRY_S if self._broken_s - before_s < _BROKEN_AGAIN_S else 0.0)

    async def write_out(self) -> None:
        """Returns when Redis has everything up to the ending, without its confirmation. Raises RedisAway."""
        while self.outbox.has_unsent and not self.outbox.is_stopped:
            await self.flush()

    async def flush(self) -> bool:
        """One round trip, where one is due; True where it has written tokens. Raises RedisAway."""
        async with self._turn:
            if self._node.has_changed(self._pipe.node_of(tokens(self._session))):
                # Another node of the cluster serves the session now, and may lack entries that were written.
                self.outbox.lose()
            try:
                trip = self.outbox.due(time.monotonic(), self._clock.now_ns())
                if trip:
                    await self._make(trip)
                return trip is not None and any(isinstance(entry, Token) for entry in trip.entries)
            except RedisAway:
                self.outbox.lose()
                raise

    async def _make(self, trip: RoundTrip) -> None:
        commands: list[Command] = [write_entry(self._session, entry) for entry in trip.entries]
        if trip.control_after is not None:
            commands.append(read_control(self._session, trip.control_after))
        if trip.reads_state:
            commands.append(read_state(self._session))
        if trip.reads_time:
            commands.append(KeyedCommand(tokens(self._session), ("TIME",)))
        replies = await self._pipe.run(commands)
        if self._pipe.connections != self._connections and not self.outbox.is_lost:
            # The connection broke during another caller's commands, and is a new one.
            self.outbox.lose()
            return
        self._connections = self._pipe.connections
        redis_time = replies.pop() if trip.reads_time else None
        state, next_look_s = self._state_in(replies.pop(), redis_time) if trip.reads_state else (None, None)
        orders, last_order = control_read(replies.pop()) if trip.control_after is not None else ([], None)
        branch = self.branch
        self.outbox.take(trip, Replies(replies, orders, last_order, state, next_look_s), time.monotonic())
        if self.branch is not branch:
            self._turned.set()
        if not self.outbox.is_held:
            self._granted.set()
        if trip.entries:
            self._presence.note(replies)
        if any(isinstance(reply, ReplyError) for reply in replies) or (self.outbox.is_lost and state is None):
            await asyncio.sleep(_RETRY_S)

    def _state_in(self, reply: Any, redis_time: Any) -> tuple[MemberState | None, float | None]:
        """(the state in the reply of read_state, the seconds until a new grant is expected); None where Redis refused
        the one or the other."""
        if isinstance(reply, ReplyError):
            return None, None
        state = session_state(self._session, reply)
        if state is None:
            return MemberState(is_open=False), None
        has_time = redis_time is not None and not isinstance(redis_time, ReplyError)
        look_s = next_look_s(state.window, state.origin_ns, redis_ns(redis_time)) if has_time else None
        progress = state.progress[self._member] if len(state.progress) > self._member else None
        return MemberState(state.status == "open", state.window, state.cut, progress), look_s
