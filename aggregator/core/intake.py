"""What the entries of the token stream do to a session, one by one, in the stream's order.

entry --sound?--> may it write? --> where in its lane? --> the member's energy, its queue, its kept tokens
         |               |
         v               v
    dead letters     duplicates, late; members that drop, whose producers are told to stop
"""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.core.composition import WindowEvents
from aggregator.core.decoding import sound_entry
from aggregator.core.ladder import members_to_drop, rung_below
from aggregator.core.proposal_cache import ProposalCache
from aggregator.core.record import SessionRecord
from aggregator.core.release import Outflow, token_frame
from aggregator.numbers.energy import certainty_of
from aggregator.numbers.frontier import Kept
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
    Token,
    Waiting,
)
from schemas.errors import Malformed
from schemas.grid import NS_PER_MS
from schemas.keys import entry_ms, entry_order
from schemas.rules.claims import ClaimVerdict
from schemas.rules.lanes import lane_bytes
from schemas.sessions import Opening

StreamEntry = tuple[str, bytes]
MemberMark = Claim | Waiting | Loading | Alive | Starved | Finished | Failed


class Intake:
    """Takes entries into a session's record. `stops` and `dead` are what the present window has to say of it."""

    def __init__(
        self,
        opening: Opening,
        origin_ns: int,
        record: SessionRecord,
        contents: ProposalCache,
        outflows: Sequence[Outflow],
    ) -> None:
        self.stops: list[Stop] = []
        self.dead: list[StreamEntry] = []
        self._opening, self._origin_ns, self._record = opening, origin_ns, record
        self._contents, self._outflows = contents, outflows
        # Then nobody's patience with a first token can end any more.
        self._have_begun = False

    def add_window(self, entries: Sequence[StreamEntry], end_ns: int) -> WindowEvents:
        """All the entries of a window that ends at `end_ns`, and who was waited for too long; what it saw."""
        self.stops, self.dead = [], []
        record, happened, count = self._record, WindowEvents(), len(self._record.members)
        for entry_id, raw in entries:
            record.cut = entry_id
            try:
                self._add(entry_id, sound_entry(raw, count), happened)
            except Malformed:
                self.dead.append((entry_id, raw))
        self._end_of_patience(end_ns)
        happened.dead_letters = len(self.dead)
        happened.members.update(*[stop.members for stop in self.stops])
        return happened

    def _add(self, entry_id: str, entry: Token | Mark, happened: WindowEvents) -> None:
        t_ns = entry_ms(entry_id) * NS_PER_MS
        match entry:
            case Token():
                happened.members.add(entry.member)
                self._count_lateness(t_ns, entry.written_ns, happened)
                self._add_token(entry_id, t_ns, entry, happened)
            case Beat():
                for index, member in enumerate(self._record.members):
                    if member.is_writing and (reason := member.add_beat(self._opening.limits)):
                        self._drop(index, reason)
            case Cancel():
                for index in entry.members or range(len(self._record.members)):
                    self._drop(index, entry.reason)
            case _:
                happened.members.add(entry.member)
                self._count_lateness(t_ns, entry.written_ns, happened)
                if self._record.members[entry.member].is_writing:
                    self._add_mark(entry_id, t_ns, entry)

    def _count_lateness(self, t_ns: int, written_ns: int, happened: WindowEvents) -> None:
        if t_ns - written_ns > self._opening.limits.allowed_lateness_ms * NS_PER_MS:
            happened.late += 1

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
                # With tokens missing before it, its producer will write them and the mark again.
                if mark.claim == member.claim and mark.tokens == member.next_seq:
                    member.finish(mark.reason)
            case Failed():
                is_later_claim = member.next_seq > 0 and entry_order(mark.claim) > entry_order(member.claim)
                if mark.claim == member.claim or is_later_claim:
                    self._drop(mark.member, mark.reason)
            case Starved():
                member.add_sign(mark.claim, "loading", t_ns)
                # Once it has begun its model is in memory, whatever it says.
                if mark.claim == member.claim and not member.next_seq:
                    self._make_room(mark)

    def _make_room(self, mark: Starved) -> None:
        """A member found no memory: the session falls to the next lower tier and keeps its heaviest members."""
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

    def _add_token(self, entry_id: str, t_ns: int, token: Token, happened: WindowEvents) -> None:
        record, member = self._record, self._record.members[token.member]
        if not member.is_writing:
            return
        verdict = member.judge_token(token.claim, token.seq)
        if verdict is ClaimVerdict.DUPLICATE:
            happened.duplicates += 1
        if verdict is not ClaimVerdict.ACCEPTED:
            return
        top = read_top(token.top) if token.quality == "real" else None
        member.meter.add_token(t_ns, token.arrival_ns, certainty_of(top) if top else None, self._opening.profile)
        start, end = member.locate(token, t_ns, record.window)
        order, shown = record.tokens, token_frame(token, start, end)
        record.tokens += 1
        if token.lane == "thinking":
            happened.add_thought(order, shown, token.text)
            return
        self._outflows[token.member].add(entry_id, order, shown, token.text)
        if end > start:
            record.alignment.parting.add_text(token.member, lane_bytes(token, start))
            kept = Kept(start, end, entry_id, token.arrival_ns)
            member.kept.append(kept)
            self._contents.add(kept, token, top, len(member.kept))
            if len(member.kept) > self._opening.limits.unaligned_tokens:
                self._contents.forget(member.kept.forget(1))

    def _drop(self, index: int, reason: str) -> None:
        member = self._record.members[index]
        if member.is_writing:
            member.drop(reason)
            self.stops.append(Stop((index,), reason))

    def _end_of_patience(self, t_ns: int) -> None:
        limits = self._opening.limits
        is_over = t_ns - self._origin_ns >= limits.life_ms * NS_PER_MS
        if self._have_begun and not is_over:
            return
        self._have_begun = all(member.next_seq for member in self._record.members)
        for index, member in enumerate(self._record.members):
            if not member.is_writing:
                continue
            if is_over:
                self._drop(index, f"the session reached its longest life of {limits.life_ms / 60_000:g} min")
            elif reason := member.lost_patience(t_ns, limits, in_step=self._opening.sync == "step"):
                self._drop(index, reason)
