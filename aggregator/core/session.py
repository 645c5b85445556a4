"""The core: a session's state, and the step that closes one window of it.

Rules
 1. Everything that affects a frame is in the opening or in an entry of the token stream: no clock, no I/O, no chance.
 2. An entry belongs to the window of its id's millisecond. Entries are taken in the stream's order, each once.
 3. close() takes exactly the entries of the next window and returns its frame. An entry beyond it affects nothing.

    entries of window k --> Intake --> close() --> Closed(frame k, stops for producers, entries that did not decode)
                              ^  |
                              |  v
                           SessionRecord  (in checkpoints; contents of tokens are read again from the stream)

So the frames of a session are a pure function of its token stream, in whichever process and however often they are
computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aggregator.core.composition import Composition, WindowEvents
from aggregator.core.consensus import LEAD_BYTES, LEFT_BEHIND, Consensus
from aggregator.core.intake import Intake, StreamEntry, valid_entry
from aggregator.core.member import MemberRecord
from aggregator.core.proposal_cache import ProposalCache
from aggregator.core.record import SessionRecord
from aggregator.core.release import ReleaseQueue
from aggregator.numbers.energy import confidence_weights
from aggregator.numbers.frontier import frontier_of
from schemas.control import Progress, Stop
from schemas.entries import Steered, Token
from schemas.errors import Malformed
from schemas.frames import Frame, Mode, every_drop
from schemas.grid import NS_PER_MS, next_grid_point_ns, window_start_ns
from schemas.keys import entry_ms, entry_order
from schemas.sessions import Opening


class Closed(msgspec.Struct, frozen=True):
    """What closing one window yields. `dead` are the entries that did not decode, byte for byte, `steered` the marks
    for the token stream."""

    frame: Frame
    stops: tuple[Stop, ...]
    dead: tuple[StreamEntry, ...]
    steered: tuple[Steered, ...] = ()


class Session:
    """One session between its opening and its final frame."""

    def __init__(self, opening: Opening, opened: str, record: SessionRecord | None = None) -> None:
        self.opening = opening
        self.opened = opened
        self._in_step = opening.sync != "free"
        self.origin_ns = next_grid_point_ns(entry_ms(opened) * NS_PER_MS)
        self.record = record or SessionRecord.begun(opening, opened, self.origin_ns)
        self._weights = confidence_weights(opening, [member.meter for member in self.record.members])
        self._composition = Composition(opening, self.origin_ns)
        self._proposals = ProposalCache(id_ for member in self.record.members for id_ in member.unaligned.entry_ids)
        self._queues = [ReleaseQueue(buffered) for buffered in self.record.buffered]
        self._consensus: Consensus | None = None
        if self.record.consensus is not None:
            self._consensus = Consensus(
                opening, self.record.consensus, self.record.members, self._queues, self._proposals
            )
        self._intake = Intake(opening, self.origin_ns, self.record, self._proposals, self._queues, self._consensus)
        # Before this time a window without entries changes nothing. A loaded session settles in its first window.
        self._changes_ns = 0

    @property
    def progress(self) -> tuple[Progress, ...]:
        """What has been accepted of each member, how far it may write, and what it continues."""
        consensus = self.record.consensus
        steers = consensus.steers if consensus else [None] * len(self.record.members)
        # fmt: off
        return tuple([
            Progress(
                m.claim, m.next_seq, not m.is_writing, m.grant if self._in_step and m.pauses else None, m.branch, steer
            )
            for m, steer in zip(self.record.members, steers, strict=True)
        ])
        # fmt: on

    @property
    def end_reason(self) -> str:
        """Why no member answered; empty unless all members dropped."""
        if any(member.state != "dropped" for member in self.record.members):
            return ""
        reasons = zip(self.opening.names, self.record.members, strict=True)
        return every_drop([(name, member.reason or "") for name, member in reasons])

    def close(self, entries: Sequence[StreamEntry]) -> Closed:
        """Closes the next window, whose entries these are, all of them and in order; returns its frame."""
        record, members, intake = self.record, self.record.members, self._intake
        end_ns = self.origin_ns + window_start_ns(record.window + 1)
        events = intake.add_window(entries, end_ns)
        is_quiet = not entries and not intake.stops and end_ns < self._changes_ns
        if not is_quiet:
            self._settle(events, end_ns)
        tier = self.opening.ladder[record.fallen - 1].tier if record.fallen else self.opening.tier
        frame = self._composition.frame(
            record.window, record.cut, record.mode, tier, members, self._weights, record.alignment,
            record.interference, None if is_quiet else events,
        )  # fmt: skip
        record.window += 1
        steered = tuple(self._consensus.steered) if self._consensus and not is_quiet else ()
        return Closed(frame, tuple(intake.stops), tuple(intake.dead), steered)

    def _settle(self, events: WindowEvents, end_ns: int) -> None:
        """What follows from all of the window's entries together."""
        record, members, limits = self.record, self.record.members, self.opening.limits
        for index in events.members:
            members[index].meter.settle(self.opening.profile)
        start_ns = self.origin_ns + window_start_ns(record.window)
        if not record.window:
            self._release_prefix(events)
        if self._consensus is not None:
            self._settle_consensus(self._consensus, events, start_ns, end_ns)
        else:
            if self._in_step:
                record.stepping.advance(members, start_ns, end_ns, limits)
            else:
                for member in members:
                    member.limit = member.written
            self._release(events)
        running = len([member for member in members if not member.ended])
        if self._in_step:
            self._set_shown_states(start_ns, end_ns, running, events)
        record.mode = self._mode(running)
        record.ended = not running
        self._weights = confidence_weights(self.opening, [member.meter for member in members])
        if self._consensus is None:
            self._align(end_ns)
        elif record.mode == "consensus":
            self._align_agreed(self._consensus)
        self._forget_passed()
        # A member that was steered in this window joins the others in the next one, and one that has not begun is given
        # what was agreed: both without an entry of their own.
        goes_on = self._consensus is not None and (self._consensus.steered or self._consensus.decisions)
        self._changes_ns = 0 if goes_on else self._next_change_ns(end_ns)

    def _release_prefix(self, events: WindowEvents) -> None:
        """Releases the beginning of every answer, which is given."""
        if prefix := self.opening.prefix:
            events.agreed = prefix.encode()
            events.texts = dict.fromkeys(range(len(self.record.members)), prefix)
            events.members |= events.texts.keys()

    def _settle_consensus(self, consensus: Consensus, events: WindowEvents, start_ns: int, end_ns: int) -> None:
        """Agrees on text, and releases it for all that follow; the answer ends with the agreed text."""
        record, members, agreed = self.record, self.record.members, consensus.record
        before = len(agreed.agreed)
        stepping = record.stepping
        stepping.front = before
        stepping.update_set(members, start_ns, end_ns, self.opening.limits, rejoins=True)
        consensus.settle(stepping.members, start_ns, end_ns, self._measured_at)
        for index, member in enumerate(members):
            # Of the others tokens without text, at the end of what was released.
            end = len(agreed.agreed) if index in consensus.following else member.position
            self._release_agreed(index, agreed.agreed[:end], events)
            if consensus.over and not member.ended:
                if index in consensus.following:
                    member.finish(consensus.over)
                    member.complete()
                else:
                    member.drop(LEFT_BEHIND)
                events.members.add(index)
            if member.ended and len(self._queues[index]):
                events.superseded += self._queues[index].cut(-1)
            if member.buffered_tokens != len(self._queues[index]):
                member.buffered_tokens = len(self._queues[index])
                events.members.add(index)
        events.members.update([index for index in stepping.members if members[index].ended])
        stepping.leave([index for index, member in enumerate(members) if member.ended])
        events.superseded += consensus.superseded
        events.agreed += agreed.agreed[before:]
        events.decisions, events.mixture = tuple(consensus.decisions), tuple(consensus.mixture)

    def _release_agreed(self, index: int, agreed: bytes, events: WindowEvents) -> None:
        """Releases the agreed text for a member, with those of its tokens that are in it."""
        member, queue = self.record.members[index], self._queues[index]
        if text := agreed[member.position :].decode():
            events.texts[index] = events.texts.get(index, "") + text
        if tokens := queue.pop_to(len(agreed)):
            events.tokens += tokens
            member.kept_to = max(member.kept_to, tokens[-1][1].end)
        if text or tokens:
            events.members.add(index)
        member.position = member.limit = len(agreed)

    def _measured_at(self, x: int, concerned: Sequence[int]) -> float | None:
        """Measures at the byte x, at which drafts part; returns the disagreement there."""
        record = self.record
        record.alignment.measure(x, list(concerned), record.members, self._weights, self._proposals)
        return record.alignment.measures.jsd

    def _align_agreed(self, consensus: Consensus) -> None:
        """Moves the frontier up to the end of the agreed text, for the members that follow it."""
        record, members = self.record, self.record.members
        end, floor = len(consensus.record.agreed), consensus.record.floor
        concerned = [i for i in record.stepping.members if members[i].unaligned.index_at(end - 1) is not None]
        x = frontier_of([(members[i].unaligned, end) for i in concerned], record.alignment.x)
        if end > floor and concerned and x is not None and (x := max(x, floor)) != record.alignment.x:
            record.alignment.measure(x, concerned, members, self._weights, self._proposals)

    def _release(self, events: WindowEvents) -> None:
        """Releases the members' text up to their limits; a member that has written all of its text ends with its last
        byte."""
        record, ended = self.record, []
        for index, member in enumerate(record.members):
            queue = self._queues[index]
            if len(queue) and (member.limit > member.position or not queue.ends_past(member.limit)):
                member.position, text, tokens = queue.release(member.position, member.limit)
                if text or tokens:
                    events.members.add(index)
                    events.texts[index] = events.texts.get(index, "") + text
                    events.tokens += tokens
            if member.buffered_tokens != len(queue):
                member.buffered_tokens = len(queue)
                events.members.add(index)
            member.releases.add(member.limit, record.window)
            if not member.ended and not member.is_writing and not len(queue):
                member.complete()
                events.members.add(index)
            if member.ended:
                ended.append(index)
        record.stepping.leave(ended)

    def _set_shown_states(self, start_ns: int, end_ns: int, running: int, events: WindowEvents) -> None:
        """Grants, and which members are shown as held, detached or awaited."""
        record = self.record
        if self._consensus is None:
            record.stepping.grant(record.members, record.window)
        else:
            record.stepping.grant_to(record.members, len(self._consensus.record.agreed) + LEAD_BYTES)
        for index, member in enumerate(record.members):
            is_in = index in record.stepping.members
            answers = member.is_writing and member.state == "answering"
            is_detached = answers and member.has_text and running > 1 and not is_in
            is_awaited = is_in and running > 1 and not member.is_ready
            if member.set_shown_state(
                start_ns, end_ns, is_held=member.is_at_grant, is_detached=is_detached, is_awaited=is_awaited
            ):
                events.members.add(index)

    def _align(self, end_ns: int) -> None:
        """Moves the frontier for the stepping members, or in free mode for all running ones."""
        record, members = self.record, self.record.members
        if record.mode == "step":
            concerned, since = record.stepping.members, record.stepping.since
            waits = not all(members[index].position > members[index].base for index in concerned)
        else:
            concerned, since = [index for index, member in enumerate(members) if not member.ended], 0
            waits = any(members[index].is_expected(end_ns, self.opening.limits, in_step=False) for index in concerned)
        record.alignment.advance(members, concerned, self._weights, self._proposals, since=since, waits=waits)

    def _next_change_ns(self, end_ns: int) -> int:
        """When time alone may change something after `end_ns`, without the time-outs of members."""
        record, limits = self.record, self.opening.limits
        step_ns = record.stepping.next_change_ns(record.members, end_ns, limits)
        ends = [
            member.expected_to_ns(limits, in_step=self._in_step) for member in record.members if not member.has_text
        ]
        return min([step_ns, *[t_ns for t_ns in ends if t_ns > end_ns]])

    def restore(self, entry_id: str, raw: bytes) -> None:
        """Gives a buffered or unaligned token its content back, after the record was loaded from a checkpoint."""
        try:
            token = valid_entry(raw, len(self.record.members))
        except Malformed:
            return
        if isinstance(token, Token):
            self._proposals.restore(entry_id, token)
            self._queues[token.member].restore(entry_id, token)

    @property
    def need_from(self) -> str | None:
        """The oldest entry whose content the next frames may need; None where they need none."""
        oldest = (self._proposals.oldest, *[queue.oldest for queue in self._queues])
        return min((entry_id for entry_id in oldest if entry_id is not None), key=entry_order, default=None)

    def checkpointed(self) -> SessionRecord:
        """The record with all that a checkpoint contains."""
        self.record.buffered = [queue.buffered for queue in self._queues]
        return self.record

    def _forget(self, member: MemberRecord, count: int) -> None:
        if count:
            self._proposals.forget(member.unaligned.forget(count))

    def _forget_passed(self) -> None:
        x = self.record.alignment.x
        for member in self.record.members:
            if member.ended:
                self._forget(member, len(member.unaligned))
            elif x is not None:
                self._forget(member, member.unaligned.passed(x))
                member.releases.forget(x)

    def _mode(self, running: int) -> Mode:
        """step while two step; else single while one member runs alone; once none runs, what it was."""
        if not running:
            return self.record.mode
        if self._consensus is not None:
            return "single" if running == 1 else "consensus"
        if len(self.record.stepping.members) > 1:
            return "step"
        return "single" if running == 1 else "free"
