"""The entries of one member's claim: which of them Redis has, and what to write and read next. Pure: no clock, no I/O.

    model --add--> tokens[0..n) --due--> RoundTrip --(delivery.py)--> Redis --take--> tokens[0..sent) are written
                       ^                                                                  |
                       +--- lose(), after a break: sent = the aggregator's next seq ------+

Every token is kept until the session is over (at most max_tokens tokens), so that it can be written again. The core
counts and ignores a token that it has already accepted, by its seq. At least one entry a second is written, because the
aggregator drops a silent producer.

In a session that steers, the aggregator's state contains the member's branch and the text that it continues there. The
state is read just after each commit, so a steer cannot be lost or obeyed twice. Each branch has its own tokens and its
own end; a member whose draft has ended stays, because it may be steered again:

    branch 0   tokens[0..n) -- read: branch 1 --> branch 1   tokens[0..0) -- model continues --> ...
                                                  what is written of branch 0 from now on is superseded

Times `now_s` are seconds of a monotonic clock, `now_ns` wall-clock nanoseconds that never fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from producers.backend import Ending, Piece
from producers.member.draft import Branch, Branches, Draft
from producers.member.grants import WINDOW_S, GrantGate
from schemas.control import NOT_STARTED, Play, Progress, Stop
from schemas.entries import Alive, AnyEntry, Failed, Finished, Lane, Loading, Starved, Token, Waiting, pack_top
from schemas.keys import entry_order
from schemas.rules.lanes import lane_end

Sign = type[Alive] | type[Waiting] | type[Loading]

# The aggregator counts the silence of a producer in beats of a second; half of one leaves time for a slow round trip.
SIGN_S = 0.5
CONTROL_S = 0.1
STATE_S = 1.0
# One round trip's worth of entries.
MOST_AT_ONCE = 256
# Without an aggregator nothing confirms the end, and the stream contains it anyway.
MOST_CONFIRMATION_S = 30.0
NO_BEGINNING = "Redis has lost the beginning of the text that it is to continue"


class RoundTrip(NamedTuple):
    """What one round trip writes and reads. `control_after` is the id after which the control stream is read, None
    where it is not read; `reads_time` asks for the time of the session's node."""

    entries: list[AnyEntry]
    control_after: str | None = None
    reads_state: bool = False
    reads_time: bool = False


class MemberState(NamedTuple):
    """The session's state hash, as one member needs it. `progress` is None before the aggregator has seen a claim."""

    is_open: bool
    window: int = -1
    cut: str = ""
    progress: Progress | None = None


class Replies(NamedTuple):
    """What a round trip brought. `written` has, for each entry, its id; an exception where Redis refused it; None where
    the session is gone. `orders` are new entries of the control stream, `last_order` is the id of the last one. `state`
    is None where it was not read, `next_look_s` where the time was not."""

    written: Sequence[bytes | Exception | None] = ()
    orders: Sequence[Stop | Play] = ()
    last_order: str | None = None
    state: MemberState | None = None
    next_look_s: float | None = None


class Outbox:
    """`is_stopped` is set when the session needs nothing more of this member. Without a `gate` the member writes
    without grants; with a `draft` it is steered."""

    def __init__(
        self,
        member: int,
        claim: str,
        gate: GrantGate | None = None,
        draft: Draft | None = None,
        *,
        is_ready: bool = True,
    ) -> None:
        """`is_ready`: the model is loaded and has a slot; otherwise the first signs are `waiting`."""
        self.is_stopped = self.has_begun = False
        self._member, self._claim, self._gate = member, claim, gate
        self.is_steerable, self._branches = draft is not None, Branches(draft)
        # The present branch: another object after each steer.
        self.branch: Branch = self._branches.now
        # Of the present branch, of which the first `_sent` are in Redis.
        self._tokens = self.branch.tokens
        self._sent = 0
        self._starved: Starved | None = None
        self._failure: Failed | None = None
        # The ending's entry, and when it was delivered; empty while Redis does not have it.
        self._ending_id, self._delivered_s = "", 0.0
        self._sign: Sign = Alive if is_ready else Waiting
        # True after a break: Redis may have lost entries, so the state is read before anything is written.
        self.is_lost = False
        self._control_seen = "0"
        self._asked_s = self._written_s = self._control_s = self._state_s = self._look_s = 0.0

    @property
    def _ending(self) -> Finished | Failed | None:
        return self._failure or self.branch.ending

    @property
    def count(self) -> int:
        """How many tokens the model has produced in this branch."""
        return len(self._tokens)

    @property
    def lanes(self) -> set[Lane]:
        """The lanes with text other than white space; to be asked once, at the end."""
        return {token.lane for token in self._tokens if token.text.strip()}

    @property
    def is_held(self) -> bool:
        """True while the next token has no grant."""
        return self._gate is not None and self._gate.is_held and self._ending is None

    @property
    def has_unsent(self) -> bool:
        """True while a token or the ending is to be written."""
        return self._sent < len(self._tokens) or (self._ending is not None and not self._ending_id)

    def is_done(self, now_s: float) -> bool:
        """True when nothing is left to write: the member is stopped, or no confirmation came in the time after the
        ending was delivered."""
        is_ended = bool(self._ending_id) and not self._may_be_steered
        return self.is_stopped or (is_ended and now_s - self._delivered_s > MOST_CONFIRMATION_S)

    @property
    def _may_be_steered(self) -> bool:
        return self.is_steerable and self._failure is None

    def wait_s(self, now_s: float) -> float:
        """How long the next round trip may wait for something to write."""
        if self.has_unsent or self.is_lost:
            return 0.0
        return max(0.0, self._look_s - now_s) if self.is_held or self.is_steerable else CONTROL_S

    def add(self, pieces: Sequence[Piece], arrival_ns: int) -> None:
        """Adds pieces that arrived together."""
        number, draft = self.branch.number, self.branch.draft
        if pieces:
            self.has_begun = True
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
                branch=number,
            )
            self._tokens.append(token)
            if draft:
                draft.add(token, piece.token)
            if self._gate and token.lane == "answer":
                self._gate.reach(lane_end(token, self._gate.end))

    def show(self, sign: Sign) -> None:
        """Sets the sign of life, which is written when there is no other entry; a new one is written at once."""
        if sign is not self._sign:
            self._sign, self._written_s = sign, 0.0

    def starve(self, reason: str, *, room_helps: bool) -> None:
        """There is no memory for the model. The mark is written once: a second one would end the member."""
        self._starved = Starved(self._member, self._claim, 0, reason, room_helps)

    def finish(self, ending: Ending) -> None:
        """Ends the branch. The first ending counts."""
        mark = Finished(
            member=self._member,
            claim=self._claim,
            written_ns=0,
            tokens=len(self._tokens),
            reason=ending.reason,
            branch=self.branch.number,
            logprob=ending.logprob,
            top=pack_top(list(ending.top)),
            prompt_tokens=ending.prompt_tokens,
        )
        self.branch.ending = self.branch.ending or mark

    def fail(self, reason: str) -> None:
        """Ends the member. An end before it counts, unless the member may be steered away from that."""
        if self._failure is None and (self.is_steerable or self.branch.ending is None):
            self._failure, self._ending_id = Failed(self._member, self._claim, 0, reason), ""

    def due(self, now_s: float, now_ns: int) -> RoundTrip | None:
        """What to write and read now; None where there is nothing. Its replies go to take(), a break to lose()."""
        self._asked_s = now_s
        if self.is_lost:
            return RoundTrip([], reads_state=True)
        entries = self._unsent(now_ns)
        if not entries and (not self._ending_id or self._may_be_steered) and now_s - self._written_s >= SIGN_S:
            entries = [self._sign(self._member, self._claim, now_ns)]
        if entries:
            # Set before the replies come: another sign that is shown meanwhile is then written at once.
            self._written_s = now_s
        reads_control = now_s - self._control_s >= CONTROL_S
        if self.is_steerable:
            reads_time = now_s >= self._look_s
        else:
            reads_time = self.is_held or (self._gate is not None and bool(entries))
        reads_state = reads_time or now_s - self._state_s >= STATE_S
        if not (entries or reads_control or reads_state):
            return None
        return RoundTrip(entries, self._control_seen if reads_control else None, reads_state, reads_time)

    def _unsent(self, now_ns: int) -> list[AnyEntry]:
        if not self.has_unsent and self._starved is None:
            return []
        unsent = self._tokens[self._sent : self._sent + MOST_AT_ONCE]
        entries: list[AnyEntry] = [msgspec.structs.replace(token, written_ns=now_ns) for token in unsent]
        if self._starved:
            entries.append(msgspec.structs.replace(self._starved, written_ns=now_ns))
            # Not written again, whether Redis takes it or not: after a loss, the next attempt to load writes another.
            self._starved = None
        # `failed` goes alone: if Redis refused a token of the same round trip, the core would drop the member without
        # it. `finished` contains the number of tokens, so the core waits for the missing one.
        ending = self._ending
        if ending and not self._ending_id:
            is_last = not unsent if isinstance(ending, Failed) else self._sent + len(unsent) == len(self._tokens)
            if is_last:
                entries.append(msgspec.structs.replace(ending, written_ns=now_ns, branch=self.branch.number))
        return entries

    def take(self, trip: RoundTrip, replies: Replies, now_s: float) -> None:
        """Takes the replies of a round trip, which came at `now_s`."""
        branch = self.branch
        if trip.reads_state:
            self._state_s, self._look_s = self._asked_s, self._asked_s + (replies.next_look_s or WINDOW_S)
            if replies.state is not None:
                self._take_state(replies.state, now_s)
        if trip.control_after is not None:
            self._control_s = self._asked_s
            self._control_seen = replies.last_order or self._control_seen
            for order in replies.orders:
                self.is_stopped |= isinstance(order, Stop) and (not order.members or self._member in order.members)
        if self.branch is branch:
            self._take_written(trip.entries, replies.written, now_s)

    def _take_state(self, state: MemberState, now_s: float) -> None:
        """The aggregator's view: is this member still needed, and did everything that was written arrive?"""
        if not state.is_open:
            self.is_stopped = True
            return
        progress = state.progress
        is_own = progress is not None and progress.claim == self._claim
        if progress and is_own and self.is_steerable:
            self._follow(progress)
        if self._gate:
            self._gate.take(state.window, progress.grant if progress and is_own else NOT_STARTED, now_s)
        if progress and (self._is_over(progress) or (progress.next_seq and not is_own)):
            self.is_stopped = True
        elif self.is_lost:
            self.is_lost, self._sent = False, progress.next_seq if progress and is_own else 0
        elif progress and self._ending_id and entry_order(state.cut) >= entry_order(self._ending_id):
            if progress.ended:
                return
            # The aggregator is past the ending and did not accept it: an entry before it was lost.
            self._sent, self._ending_id = progress.next_seq, ""

    def _is_over(self, progress: Progress) -> bool:
        """True where nothing more is accepted of the member. A draft that has ended may be steered again."""
        is_draft_whole = self._may_be_steered and bool(self.branch.ending) and progress.next_seq == self.count
        return progress.ended and not is_draft_whole

    def _follow(self, progress: Progress) -> None:
        """Turns to the branch in which the aggregator has the member."""
        if (progress.branch, progress.steer) == (self.branch.number, self.branch.steer):
            return
        if not self._branches.turn_to(progress.branch, progress.steer):
            self.fail(NO_BEGINNING)
            return
        self.branch = self._branches.now
        self._tokens, self._sent, self._ending_id = self.branch.tokens, progress.next_seq, ""
        if self._gate and self.branch.draft:
            self._gate.reach(self.branch.draft.end)

    def _take_written(
        self, entries: Sequence[AnyEntry], written: Sequence[bytes | Exception | None], now_s: float
    ) -> None:
        for entry, reply in zip(entries, written, strict=True):
            if reply is None:
                self.is_stopped = True
            if not isinstance(reply, bytes):
                # Redis is out of memory, or loading. The core ignores the rest of this round trip, which is ahead of
                # the missing entry, and it is written again as well.
                return
            if isinstance(entry, Token):
                self._sent = entry.seq + 1
            elif isinstance(entry, Finished | Failed):
                self._ending_id, self._delivered_s = reply.decode(), now_s

    def lose(self) -> None:
        """The connection broke: Redis may have lost entries that it had taken, so the state is read first. Orders that
        were lost may come again, with ids that are not behind the last one that was read."""
        self.is_lost, self._ending_id, self._control_seen = True, "", "0"
