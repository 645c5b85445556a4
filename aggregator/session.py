"""The core: a session's state, and the step that closes one window of it.

Rules
 1. Everything that affects a frame is in the opening or in an entry of the token stream. No clock, no I/O, no chance.
 2. An entry belongs to the window of its id's millisecond. Entries are taken in the stream's order, each once.
 3. close() takes exactly the entries of the next window and returns its frame. Nothing read beyond it is part of the
 state.

    entries of window k --> close() --> Closed(frame k, words to the producers, entries that did not decode)
                              ^  |
                              |  v
                           SessionRecord  (what a checkpoint holds; token contents come again from the stream)

So the frames of a session are a pure function of its token stream, whoever computes them, and however often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from aggregator.alignment import Alignment
from aggregator.decoding import sound_entry
from aggregator.energy import certainty_of
from aggregator.ensemble import energy_of_members
from aggregator.frontier import Kept, passed
from aggregator.ladder import members_to_drop, rung_below
from aggregator.member import MemberRecord, lane_text
from schemas.claims import Verdict
from schemas.control import Progress, Stop
from schemas.entries import (
    Alive,
    Beat,
    Cancel,
    Claim,
    Failed,
    Finished,
    Lane,
    Loading,
    Mark,
    Starved,
    Token,
    Waiting,
    decode_entry,
    unpack_top,
)
from schemas.errors import Malformed
from schemas.frames import FRAME_VERSION, Frame, MemberFrame, Mode, TokenFrame, every_drop
from schemas.grid import NS_PER_MS, next_grid_point_ns, window_start_ns
from schemas.keys import entry_ms, entry_order
from schemas.sessions import Opening

StreamEntry = tuple[str, bytes]
MemberMark = Claim | Waiting | Loading | Alive | Starved | Finished | Failed


class SessionRecord(msgspec.Struct, array_like=True):
    """All that the next frames depend on, apart from the contents of the kept tokens. `window` is the next one to
    close."""

    members: list[MemberRecord]
    cut: str
    window: int = 0
    mode: Mode = "free"
    ended: bool = False
    alignment: Alignment = msgspec.field(default_factory=Alignment)
    # Rungs of the opening's ladder that the session fell.
    fallen: int = 0


class Closed(msgspec.Struct, frozen=True):
    """What one closed window has to say. `dead` are the entries that did not decode, as they were."""

    frame: Frame
    stops: tuple[Stop, ...]
    dead: tuple[StreamEntry, ...]


class _Counts(msgspec.Struct):
    late: int = 0
    duplicates: int = 0


class Session:
    """One session between its opening and its final frame."""

    def __init__(self, opening: Opening, opened: str, record: SessionRecord | None = None) -> None:
        self.opening = opening
        self.opened = opened
        self.origin_ns = next_grid_point_ns(entry_ms(opened) * NS_PER_MS)
        self.record = record or SessionRecord([MemberRecord() for _ in opening.members], cut=opened)
        self._weights = [member.weight for member in opening.members]
        # Contents of the kept tokens by entry id, oldest first; those of a loaded record are wanted until restored.
        self.contents: dict[str, Token] = {}
        self._wanted = {kept.entry_id for member in self.record.members for kept in member.kept}

    @property
    def progress(self) -> tuple[Progress, ...]:
        """What has been accepted of each member."""
        return tuple(Progress(m.claim, m.next_seq, not m.is_running) for m in self.record.members)

    @property
    def end_reason(self) -> str:
        """Why nobody answered; empty unless all members dropped."""
        if any(member.state != "dropped" for member in self.record.members):
            return ""
        reasons = zip(self.opening.members, self.record.members, strict=True)
        return every_drop([(spec.model, member.reason or "") for spec, member in reasons])

    def close(self, entries: Sequence[StreamEntry]) -> Closed:
        """Closes the next window, whose entries these are, all of them and in order; returns its frame."""
        record = self.record
        start_ns, end_ns = window_start_ns(record.window), window_start_ns(record.window + 1)
        self._texts: list[list[tuple[Lane, str]]] = [[] for _ in record.members]
        self._tokens: list[TokenFrame] = []
        self._stopped: list[Stop] = []
        counts, dead = _Counts(), []
        for entry_id, raw in entries:
            record.cut = entry_id
            try:
                self._add(entry_id, sound_entry(raw, len(record.members)), counts)
            except Malformed:
                dead.append((entry_id, raw))
        self._end_of_patience(self.origin_ns + end_ns)
        record.alignment.advance(record.members, self._weights, self.contents)
        self._forget_passed()
        record.mode = self._mode()
        record.ended = not any(member.is_running for member in record.members)
        frame = self._frame(start_ns, end_ns, counts, len(dead))
        record.window += 1
        return Closed(frame, tuple(self._stopped), tuple(dead))

    def restore(self, entry_id: str, raw: bytes) -> None:
        """Gives a kept token its content back, after the record was loaded from a checkpoint."""
        if entry_id in self._wanted and isinstance(entry := decode_entry(raw), Token):
            self.contents[entry_id] = entry

    @property
    def need_from(self) -> str | None:
        """The oldest entry whose content the next frames may need; None where they need none."""
        return next(iter(self.contents), None)

    # --- entries -----------------------------------------------------------------------------------------------------

    def _add(self, entry_id: str, entry: Token | Mark, counts: _Counts) -> None:
        t_ns = entry_ms(entry_id) * NS_PER_MS
        match entry:
            case Token():
                self._count_lateness(t_ns, entry.written_ns, counts)
                self._add_token(entry_id, t_ns, entry, counts)
            case Beat():
                for index, member in enumerate(self.record.members):
                    if member.is_running and (reason := member.add_beat(self.opening.limits)):
                        self._drop(index, reason)
            case Cancel():
                for index in entry.members or range(len(self.record.members)):
                    self._drop(index, entry.reason)
            case _:
                self._count_lateness(t_ns, entry.written_ns, counts)
                if self.record.members[entry.member].is_running:
                    self._add_mark(entry_id, t_ns, entry)

    def _count_lateness(self, t_ns: int, written_ns: int, counts: _Counts) -> None:
        if t_ns - written_ns > self.opening.limits.allowed_lateness_ms * NS_PER_MS:
            counts.late += 1

    def _add_mark(self, entry_id: str, t_ns: int, mark: MemberMark) -> None:
        member = self.record.members[mark.member]
        match mark:
            case Claim():
                member.add_claim(entry_id, t_ns)
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
        record, members = self.record, self.record.members
        running = {i: self._weights[i] for i, member in enumerate(members) if member.is_running}
        if members[mark.member].has_starved or len(running) == 1:
            self._drop(mark.member, mark.reason)
            return
        members[mark.member].has_starved = True
        rung = rung_below(self.opening.ladder, record.fallen)
        record.fallen += rung is not None
        starved = self.opening.members[mark.member].model
        for index in members_to_drop(running, mark.member, rung, room_helps=mark.room_helps):
            reason = mark.reason if index == mark.member else f"it made room: no memory for {starved}"
            self._drop(index, f"{reason}; the session fell to the {rung.tier} tier" if rung else reason)

    def _add_token(self, entry_id: str, t_ns: int, token: Token, counts: _Counts) -> None:
        member = self.record.members[token.member]
        if not member.is_running:
            return
        verdict = member.judge_token(token.claim, token.seq)
        if verdict is Verdict.DUPLICATE:
            counts.duplicates += 1
        if verdict is not Verdict.ACCEPTED:
            return
        certainty = certainty_of(unpack_top(token.top)) if token.quality == "real" else None
        member.meter.add_token(t_ns, token.arrival_ns, certainty, self.opening.profile)
        start, end = member.place(token)
        self._texts[token.member].append((token.lane, token.text))
        self._tokens.append(
            TokenFrame(token.member, token.lane, token.seq, start, end, _shown_logprob(token.logprob), token.quality)
        )
        if token.lane == "answer" and end > start:
            self._keep(member, Kept(start, end, entry_id, self.record.window, token.arrival_ns), token)

    def _keep(self, member: MemberRecord, kept: Kept, token: Token) -> None:
        member.kept.append(kept)
        self.contents[kept.entry_id] = token
        if len(member.kept) > self.opening.limits.unaligned_tokens:
            self._forget(member, 1)

    def _forget(self, member: MemberRecord, count: int) -> None:
        for kept in member.kept[:count]:
            del self.contents[kept.entry_id]
        del member.kept[:count]

    def _forget_passed(self) -> None:
        x = self.record.alignment.x
        for member in self.record.members:
            if not member.is_running:
                self._forget(member, len(member.kept))
            elif x is not None:
                self._forget(member, passed(member.kept, x))

    def _drop(self, index: int, reason: str) -> None:
        member = self.record.members[index]
        if member.is_running:
            member.drop(reason)
            self._stopped.append(Stop((index,), reason))

    def _end_of_patience(self, t_ns: int) -> None:
        limits = self.opening.limits
        is_over = t_ns - self.origin_ns >= limits.life_ms * NS_PER_MS
        for index, member in enumerate(self.record.members):
            if not member.is_running:
                continue
            if is_over:
                self._drop(index, f"the session reached its longest life of {limits.life_ms / 60_000:g} min")
            elif reason := member.lost_patience(t_ns, limits):
                self._drop(index, reason)

    def _mode(self) -> Mode:
        """single while one member runs alone; once nobody runs, what it was."""
        running = sum(member.is_running for member in self.record.members)
        if running == 0:
            return "single" if len(self.record.members) == 1 else self.record.mode
        return "single" if running == 1 else "free"

    # --- the frame ---------------------------------------------------------------------------------------------------

    def _frame(self, start_ns: int, end_ns: int, counts: _Counts, dead_letters: int) -> Frame:
        record, alignment = self.record, self.record.alignment
        members = tuple(self._member_frame(index, self.origin_ns + end_ns) for index in range(len(record.members)))
        return Frame(
            version=FRAME_VERSION,
            session=self.opening.session,
            window_index=record.window,
            start_ns=start_ns,
            end_ns=end_ns,
            mode=record.mode,
            final=record.ended,
            cut=record.cut,
            energy=_rounded(energy_of_members(members, self._weights)),
            diversity_index=_rounded(alignment.diversity_index),
            di_source=alignment.di_source,
            sync_lag_ms=_rounded_or_none(alignment.sync_lag_ms),
            arrival_skew_ms=_rounded_or_none(alignment.arrival_skew_ms),
            late=counts.late,
            duplicates=counts.duplicates,
            dead_letters=dead_letters,
            members=members,
            tokens=tuple(self._tokens),
            tier=self.opening.ladder[record.fallen - 1].tier if record.fallen else self.opening.tier,
        )

    def _member_frame(self, index: int, t_ns: int) -> MemberFrame:
        member, profile = self.record.members[index], self.opening.profile
        member.meter.settle(profile)
        texts = self._texts[index]
        return MemberFrame(
            model=self.opening.members[index].model,
            state=member.state,
            energy=_rounded(member.meter.at(t_ns, profile)),
            tokens_per_s=float(member.meter.tokens_per_s(t_ns)),
            certainty=_rounded_or_none(member.meter.certainty),
            position_bytes=member.position,
            buffered_tokens=0,
            text=lane_text(texts, "answer"),
            thinking=lane_text(texts, "thinking"),
            reason=member.reason,
            remote=self.opening.members[index].remote,
        )


def _shown_logprob(logprob: float | None) -> float | None:
    """At most 0; None where it is no number."""
    return _rounded(min(logprob, 0.0)) if logprob is not None and math.isfinite(logprob) else None


def _rounded(value: float) -> float:
    """Numbers in frames are rounded to 1e-9."""
    return round(value, 9)


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None else round(value, 9)
