"""The effect of each entry of the token stream on a session, in the stream's order.

entry --valid?--> of the winning claim? --> where in its lane? --> energy, buffered tokens, unaligned tokens
         |               |
         v               v
    dead letters     duplicates, late; dropped members, whose producers are stopped
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from aggregator.core.composition import WindowEvents
from aggregator.core.consensus import Consensus
from aggregator.core.ladder import members_to_drop, rung_below
from aggregator.core.proposal_cache import ProposalCache
from aggregator.core.record import SessionRecord
from aggregator.core.release import ReleaseQueue, token_frame
from aggregator.numbers.energy import certainty_of
from aggregator.numbers.frontier import UnalignedToken
from aggregator.numbers.toplist import read_top
from schemas.control import Stop
from schemas.entries import (
    Alive,
    Beat,
    Cancel,
    Claim,
    Failed,
    Finished,
    Loading,
    Mark,
    Starved,
    Steered,
    Token,
    Waiting,
    decode_entry,
)
from schemas.errors import Malformed
from schemas.grid import NS_PER_MS
from schemas.keys import entry_ms, entry_order, is_entry_id
from schemas.rules.claims import ClaimVerdict
from schemas.rules.lanes import lane_bytes
from schemas.sessions import Opening

StreamEntry = tuple[str, bytes]
MemberMark = Claim | Waiting | Loading | Alive | Starved | Finished | Failed

# All tokens of a member name the same claim; room for two claims of each member of the most sessions of a process.
_is_claim = lru_cache(maxsize=4_096)(is_entry_id)


def valid_entry(raw: bytes, member_count: int) -> Token | Mark:
    """The entry. Raises Malformed where it does not decode, or names a member that the session does not have."""
    entry = decode_entry(raw)
    if isinstance(entry, Token) and 0 <= entry.member < member_count and _is_claim(entry.claim):
        return entry
    if isinstance(entry, Opening):
        raise Malformed("a session is opened once")
    members = () if isinstance(entry, Beat) else entry.members if isinstance(entry, Cancel) else (entry.member,)
    if any(not 0 <= member < member_count for member in members):
        raise Malformed("there is no such member")
    if not isinstance(entry, Beat | Cancel | Claim | Steered) and not _is_claim(entry.claim):
        raise Malformed("a claim is the id of an entry")
    return entry


class Intake:
    """Takes entries into a session's record. `stops` and `dead` are those of the window that was added last."""

    def __init__(
        self,
        opening: Opening,
        origin_ns: int,
        record: SessionRecord,
        proposals: ProposalCache,
        queues: Sequence[ReleaseQueue],
        consensus: Consensus | None = None,
    ) -> None:
        self.stops: list[Stop] = []
        self.dead: list[StreamEntry] = []
        self._opening, self._origin_ns, self._record = opening, origin_ns, record
        self._proposals, self._queues, self._consensus = proposals, queues, consensus
        # True once every member has produced a token: the first-token time-out no longer applies.
        self._have_begun = False

    def add_window(self, entries: Sequence[StreamEntry], end_ns: int) -> WindowEvents:
        """Takes in all entries of a window that ends at `end_ns`, and drops the members that have timed out by then."""
        self.stops, self.dead = [], []
        if self._consensus is not None:
            self._consensus.prepare()
        record, events, count = self._record, WindowEvents(), len(self._record.members)
        for entry_id, raw in entries:
            record.cut = entry_id
            try:
                self._add(entry_id, valid_entry(raw, count), events)
            except Malformed:
                self.dead.append((entry_id, raw))
        self._drop_timed_out(end_ns)
        events.dead_letters = len(self.dead)
        events.members.update(*[stop.members for stop in self.stops])
        return events

    def _add(self, entry_id: str, entry: Token | Mark, events: WindowEvents) -> None:
        t_ns = entry_ms(entry_id) * NS_PER_MS
        match entry:
            case Token():
                events.members.add(entry.member)
                self._count_lateness(t_ns, entry.written_ns, events)
                self._add_token(entry_id, t_ns, entry, events)
            case Beat():
                for index, member in enumerate(self._record.members):
                    if self._takes_part(index) and (reason := member.add_beat(self._opening.limits)):
                        self._drop(index, reason)
            case Cancel():
                for index in entry.members or range(len(self._record.members)):
                    self._drop(index, entry.reason)
            case Steered():
                # The session has decided it itself, perhaps long before it could be written.
                self._record.members[entry.member].add_mark_of_steer(entry.branch, t_ns)
            case _:
                events.members.add(entry.member)
                self._count_lateness(t_ns, entry.written_ns, events)
                if self._takes_part(entry.member):
                    self._add_mark(entry_id, t_ns, entry)

    def _count_lateness(self, t_ns: int, written_ns: int, events: WindowEvents) -> None:
        if t_ns - written_ns > self._opening.limits.allowed_lateness_ms * NS_PER_MS:
            events.late += 1

    def _add_mark(self, entry_id: str, t_ns: int, mark: MemberMark) -> None:
        member = self._record.members[mark.member]
        match mark:
            case Claim():
                member.add_claim(entry_id, t_ns, mark.pauses, waits=mark.waits)
            case Waiting():
                member.add_sign(mark.claim, "waiting", t_ns)
            case Loading():
                member.add_sign(mark.claim, "loading", t_ns)
            case Alive():
                member.add_sign(mark.claim, None, t_ns)
            case Finished():
                # Where tokens before it are missing, its producer will write them and the mark again.
                is_last = mark.tokens == member.next_seq and mark.branch == member.branch
                if mark.claim == member.claim and is_last:
                    member.finish(mark.reason)
                    if self._consensus is not None:
                        self._consensus.record.ends[mark.member] = mark
            case Failed():
                is_later_claim = member.begun and entry_order(mark.claim) > entry_order(member.claim)
                if mark.claim == member.claim or is_later_claim:
                    self._drop(mark.member, mark.reason)
            case Starved():
                member.add_sign(mark.claim, "loading", t_ns)
                # A member that has produced a token has its model in memory.
                if mark.claim == member.claim and not member.begun:
                    self._make_room(mark)

    def _make_room(self, mark: Starved) -> None:
        """Memory is too small for a member's model: the session falls to the next lower tier and keeps its heaviest
        members."""
        record, members = self._record, self._record.members
        writing = {i: self._opening.members[i].weight for i, member in enumerate(members) if member.is_writing}
        if members[mark.member].has_starved or len(writing) == 1:
            self._drop(mark.member, mark.reason)
            return
        members[mark.member].has_starved = True
        rung = rung_below(self._opening.ladder, record.fallen)
        record.fallen += rung is not None
        starved = self._opening.names[mark.member]
        for index in members_to_drop(writing, mark.member, rung, room_helps=mark.room_helps):
            reason = mark.reason if index == mark.member else f"it made room: no memory for {starved}"
            self._drop(index, f"{reason}; the session fell to the {rung.tier} tier" if rung else reason)

    def _add_token(self, entry_id: str, t_ns: int, token: Token, events: WindowEvents) -> None:
        record, member = self._record, self._record.members[token.member]
        if not member.is_writing:
            return
        verdict = member.judge_token(token.claim, token.seq, token.branch)
        if verdict is ClaimVerdict.DUPLICATE:
            events.duplicates += 1
        elif verdict is ClaimVerdict.SUPERSEDED:
            events.superseded += 1
        if verdict is not ClaimVerdict.ACCEPTED:
            return
        top = read_top(token.top) if token.quality == "real" else None
        member.meter.add_token(t_ns, token.arrival_ns, certainty_of(top) if top else None, self._opening.profile)
        start, end = member.locate(token, t_ns, record.window)
        order, shown = record.tokens, token_frame(token, start, end)
        record.tokens += 1
        if token.lane == "thinking":
            events.add_thought(order, shown, token.text)
            return
        self._queues[token.member].add(entry_id, order, shown, token.text)
        if end > start:
            if self._consensus is None:
                record.alignment.parting.add_text(token.member, lane_bytes(token, start))
            else:
                self._consensus.add_text(token.member, lane_bytes(token, start))
            unaligned = UnalignedToken(start, end, entry_id, token.arrival_ns)
            member.unaligned.append(unaligned)
            self._proposals.add(unaligned, token, top, len(member.unaligned))
            if len(member.unaligned) > self._opening.limits.unaligned_tokens:
                self._proposals.forget(member.unaligned.forget(1))

    def _takes_part(self, index: int) -> bool:
        """True until the mark of its end. A draft that has ended may be steered again: in a consensus session its
        member can still fail, fall silent and be cancelled, up to the end of the answer."""
        member = self._record.members[index]
        return member.is_writing or (self._consensus is not None and not member.ended)

    def _drop(self, index: int, reason: str) -> None:
        member = self._record.members[index]
        if self._takes_part(index):
            member.drop(reason)
            self.stops.append(Stop((index,), reason))

    def _drop_timed_out(self, t_ns: int) -> None:
        limits = self._opening.limits
        is_life_over = t_ns - self._origin_ns >= limits.life_ms * NS_PER_MS
        if self._have_begun and not is_life_over:
            return
        self._have_begun = all(member.begun for member in self._record.members)
        for index, member in enumerate(self._record.members):
            if not self._takes_part(index):
                continue
            if is_life_over:
                self._drop(index, f"the session reached its longest life of {limits.life_ms / 60_000:g} min")
            elif member.is_writing and (
                reason := member.timeout_reason(t_ns, limits, in_step=self._opening.sync != "free")
            ):
                self._drop(index, reason)
