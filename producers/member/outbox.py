"""What a producer has to say about one member of one session, and getting it into the stream whatever happens to Redis.

    model --add--> tokens[0..n) --flush--> XADD     sent = how many Redis has taken
                       ^                     |
                       +--- after a break: sent = the aggregator's next seq, and on from there

Everything is kept until the session is over (at most max_tokens tokens), so that it can be written again; what
arrives twice is counted and ignored by its seq. At least one entry a second is written: silence would mean that this
process is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import msgspec

from producers.backend import Piece
from producers.member.grants import WINDOW_S, GrantGate, next_look_s
from runtime.presence import RedisPresence
from schemas.control import NOT_STARTED, Stop
from schemas.entries import Alive, AnyEntry, Failed, Finished, Loading, Starved, Token, Waiting, pack_top
from schemas.errors import RedisAway, RedisRefuses
from schemas.keys import entry_order, tokens
from schemas.rules.lanes import lane_end
from transport.redis.cluster import KeyedCommand, SessionNode
from transport.redis.connection import AsyncPipe, Command, ReplyError, redis_ns
from transport.sessions import SessionState, read_state, session_state
from transport.tokens import RisingClock, control_read, read_control, write_entry

# A second's silence is a beat lost; half of it leaves room for a slow round trip.
_SIGN_S = 0.5
_CONTROL_S = 0.1
_STATE_S = 1.0
_RETRY_S = 0.25
# Tokens that come within a quarter of a window of each other go out together: above 250 a second a round trip each
# costs more than all that is done with them.
_REST_S = 0.004
# One round trip's worth of entries.
_MOST_AT_ONCE = 256
# With no aggregator nobody confirms the end; the stream holds it anyway.
_MOST_CONFIRMATION_S = 30.0


class Outbox:
    """The entries of one claim. `stopped` is set when nothing of this member is wanted any more. `gate` is None where
    the member writes as it likes."""

    def __init__(
        self,
        pipe: AsyncPipe,
        session: str,
        member: int,
        claim: str,
        presence: RedisPresence,
        gate: GrantGate | None = None,
        *,
        is_ready: bool = True,
    ) -> None:
        """`is_ready`: the model is loaded and has a slot; else the first signs say that it waits."""
        self.stopped = asyncio.Event()
        self._pipe, self._session, self._member, self._claim = pipe, session, member, claim
        self._node, self._connections = SessionNode(), pipe.connections
        self._presence = presence
        self._gate, self._answer_end = gate, 0
        self._clock = RisingClock()
        self._tokens: list[Token] = []
        self._sent = 0
        self._starved: Starved | None = None
        self._ending: Finished | Failed | None = None
        self._ending_sent = False
        self._ending_id = "0-0"
        self._ended_at = 0.0
        self._sign: type[Alive] | type[Waiting] | type[Loading] = Alive if is_ready else Waiting
        self._news = asyncio.Event()
        self._control_seen = "0"
        self._written_at = self._control_at = self._state_at = 0.0
        self._grant_at = 0.0

    @property
    def has_begun(self) -> bool:
        return bool(self._tokens)

    @property
    def count(self) -> int:
        return len(self._tokens)

    def add(self, pieces: tuple[Piece, ...]) -> None:
        """Pieces that arrived now, together."""
        arrival_ns = self._clock.now_ns()
        for piece in pieces:
            token = Token(
                member=self._member,
                claim=self._claim,
                seq=len(self._tokens),
                lane=piece.lane,
                text=piece.text,
                arrival_ns=arrival_ns,
                written_ns=0,
                logprob=piece.logprob,
                quality=piece.quality,
                piece=piece.piece,
                top=pack_top(list(piece.top)),
            )
            self._tokens.append(token)
            if self._gate and token.lane == "answer":
                self._answer_end = lane_end(token, self._answer_end)
                self._gate.reach(self._answer_end)
        self._news.set()

    def show(self, sign: type[Alive] | type[Waiting] | type[Loading]) -> None:
        """What the once-a-second entry says from now on."""
        if sign is not self._sign:
            self._sign, self._written_at = sign, 0.0
            self._news.set()

    def starve(self, reason: str, *, room_helps: bool) -> None:
        """There is no memory for the model; said once, for the second time would end the member."""
        self._starved = Starved(self._member, self._claim, 0, reason, room_helps)
        self._news.set()

    def finish(self, reason: str) -> None:
        self._end(Finished(self._member, self._claim, 0, len(self._tokens), reason))

    def fail(self, reason: str) -> None:
        self._end(Failed(self._member, self._claim, 0, reason))

    def _end(self, ending: Finished | Failed) -> None:
        self._ending, self._ended_at = ending, time.monotonic()
        self._news.set()

    async def deliver(self) -> None:
        """Writes until the end is confirmed, or until the member is not wanted any more."""
        while not self.stopped.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s()):
                    await self._news.wait()
            self._news.clear()
            try:
                await self.flush()
            except RedisAway as error:
                self._presence.lose(error)
                await self._begin_again()
            else:
                await asyncio.sleep(_REST_S)
            if self._ending_sent and time.monotonic() - self._ended_at > _MOST_CONFIRMATION_S:
                return

    def _patience_s(self) -> float:
        """How long the next round trip may wait where there is nothing to write."""
        if self._is_held:
            return max(0.0, self._grant_at - time.monotonic())
        return _CONTROL_S

    @property
    def _is_held(self) -> bool:
        return self._gate is not None and self._gate.is_held and self._ending is None

    async def flush(self) -> None:
        """One round trip: what is unsent, or a sign of life; and a look at control and state when due. Raises
        RedisAway, also where another node of a cluster serves the session now: it may have lost what was written."""
        if self._node.has_changed(self._pipe.node_of(tokens(self._session))):
            raise RedisAway("another node of the cluster serves the session now")
        now = time.monotonic()
        entries = self._unsent()
        if not entries and not self._ending_sent and now - self._written_at >= _SIGN_S:
            entries = [self._sign(self._member, self._claim, self._clock.now_ns())]
        commands: list[Command] = [write_entry(self._session, entry) for entry in entries]
        asks_control = now - self._control_at >= _CONTROL_S
        asks_grant = self._is_held or (self._gate is not None and bool(entries))
        asks_state = asks_grant or now - self._state_at >= _STATE_S
        if asks_control:
            commands.append(read_control(self._session, self._control_seen))
        if asks_state:
            commands.append(read_state(self._session))
        if asks_grant:
            commands.append(KeyedCommand(tokens(self._session), ("TIME",)))
        if not commands:
            return
        if entries:
            # Before the round trip: another sign that is shown meanwhile is written at once.
            self._written_at = now
        replies = await self._pipe.run(commands)
        if self._pipe.connections != self._connections:
            # Another caller of this pipe met a break, and these commands had none.
            await self._begin_again()
            return
        redis_time = replies.pop() if asks_grant else None
        if asks_state:
            self._state_at, self._grant_at = now, now + WINDOW_S
            if not isinstance(reply := replies.pop(), ReplyError):
                state = session_state(self._session, reply)
                self._add_state(state)
                if state and redis_time and not isinstance(redis_time, ReplyError):
                    self._grant_at = now + next_look_s(state.window, state.origin_ns, redis_ns(redis_time))
        if asks_control:
            self._control_at = now
            self._add_control(replies.pop())
        if entries:
            await self._add_written(entries, replies)

    def _unsent(self) -> list[AnyEntry]:
        written_ns = self._clock.now_ns()
        tokens = self._tokens[self._sent : self._sent + _MOST_AT_ONCE]
        entries: list[AnyEntry] = [msgspec.structs.replace(token, written_ns=written_ns) for token in tokens]
        if self._starved:
            entries.append(msgspec.structs.replace(self._starved, written_ns=written_ns))
            # Whether Redis took it or not: it is not said again. If it was lost, the next attempt says it.
            self._starved = None
        if self._ending and not self._ending_sent and self._sent + len(tokens) == len(self._tokens):
            entries.append(msgspec.structs.replace(self._ending, written_ns=written_ns))
        return entries

    async def _add_written(self, entries: list[AnyEntry], replies: list[Any]) -> None:
        for entry, reply in zip(entries, replies, strict=True):
            if reply is None:
                self.stopped.set()
                return
            if isinstance(reply, ReplyError):
                # Out of memory, or loading: hold what there is and try again. What followed in this round trip is
                # ahead of the missing one, so the core ignores it, and it is written again as well.
                self._presence.lose(reply)
                await asyncio.sleep(_RETRY_S)
                return
            if isinstance(entry, Token):
                self._sent += 1
            elif isinstance(entry, Finished | Failed):
                self._ending_sent, self._ending_id = True, reply.decode()
        self._presence.come_back()
        if self._sent < len(self._tokens) or (self._ending and not self._ending_sent):
            self._news.set()

    def _add_control(self, reply: Any) -> None:
        words, last = control_read(reply)
        self._control_seen = last or self._control_seen
        if any(isinstance(word, Stop) and (not word.members or self._member in word.members) for word in words):
            self.stopped.set()

    def _add_state(self, state: SessionState | None) -> None:
        """The aggregator's view: is this member still wanted, and did all that was written arrive?"""
        if state is None or state.status != "open":
            self.stopped.set()
            return
        progress = state.progress[self._member] if len(state.progress) > self._member else None
        if self._gate:
            granted = progress.grant if progress and progress.claim == self._claim else NOT_STARTED
            self._gate.hear(state.window, granted, time.monotonic())
        if progress is None:
            return
        if progress.ended or (progress.next_seq and progress.claim != self._claim):
            self.stopped.set()
        elif self._ending_sent and entry_order(state.cut) >= entry_order(self._ending_id):
            # The aggregator is past our ending and did not accept it: something before it was lost.
            self._sent, self._ending_sent = progress.next_seq, False
            self._news.set()

    async def _begin_again(self) -> None:
        """After a break Redis may have lost what it had taken: begins again where the aggregator is."""
        self._state_at, self._sent, self._ending_sent = 0.0, 0, False
        await self._wait_for_state()
        self._connections = self._pipe.connections

    async def _wait_for_state(self) -> None:
        """Waits for Redis, and takes up where the aggregator is."""
        while not self.stopped.is_set():
            try:
                (reply,) = await self._pipe.run([read_state(self._session)])
                state = session_state(self._session, reply)
            except (RedisAway, RedisRefuses):
                await asyncio.sleep(_RETRY_S)
                continue
            self._add_state(state)
            if state and len(state.progress) > self._member and state.progress[self._member].claim == self._claim:
                self._sent = state.progress[self._member].next_seq
            self._news.set()
            return
