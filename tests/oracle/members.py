"""Which members write in a session and which tokens are accepted, window by window: the slow way.

    stream --window_ends()--> for each window: counts, each member's state, every token accepted so far

What is released of it, and how a member is shown, is in step.py: no entry depends on that.

Shares nothing with the core but the wire structs and the grid. An entry's time is its id's; times are absolute
nanoseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from schemas import entries as wire
from schemas.errors import Malformed
from schemas.frames import MemberState
from schemas.grid import NS_PER_MS, next_grid_point_ns, window_of_entry, window_start_ns
from schemas.keys import entry_ms, entry_order, is_entry_id
from schemas.sessions import Limits, Opening

WHITE_SPACE = " \t\n\r\x0b\x0c"
Stream = list[tuple[str, bytes]]
MemberMark = wire.Claim | wire.Waiting | wire.Loading | wire.Alive | wire.Starved | wire.Finished | wire.Failed


@dataclass(frozen=True)
class Accepted:
    """An accepted token: its order in the stream, the time and window of its entry, its bytes in its lane."""

    token: wire.Token
    order: int
    entry_ns: int
    window: int
    start: int
    end: int


@dataclass
class MemberHistory:
    """One member after some entries. `pauses` is from the winning claim; `first_token_from_ns` is when the first-token
    time-out began; `loading_sign_ns` is the last sign of loading; a member that pauses asks its model once it
    `was_started`. `state` is what its producer does, or did last where `ended`: its finish mark was accepted."""

    claim: str = ""
    pauses: bool = False
    first_token_from_ns: int = 0
    loading_ns: int | None = None
    waiting_ns: int | None = None
    silent_beats: int = 0
    state: MemberState = "waiting"
    reason: str | None = None
    accepted: list[Accepted] = field(default_factory=list)
    starved: bool = False
    ended: bool = False
    loading_sign_ns: int | None = None
    queues: bool = False
    was_started: bool = False

    @property
    def held_back(self) -> bool:
        """In step mode: it could begin, and pauses until it is started."""
        could_begin = self.ready and not self.answer and self.state in ("waiting", "answering")
        return self.pauses and self.writing and could_begin and not self.was_started

    @property
    def ready(self) -> bool:
        """Its model could write its first token now."""
        return bool(self.accepted) or (bool(self.claim) and self.state != "loading" and self.waiting_ns is None)

    @property
    def writing(self) -> bool:
        """Its producer writes: a member that does not write does not change any more."""
        return not self.ended and self.state != "dropped"

    @property
    def answer(self) -> bytes:
        """Its answer so far, from the first byte that is not white space."""
        text = "".join(one.token.text for one in self.accepted if one.token.lane == "answer")
        return text.lstrip(WHITE_SPACE).encode()

    def kept_tokens(self, limit: int) -> list[Accepted]:
        """The newest tokens with bytes of the answer: only these can be aligned."""
        return [one for one in self.accepted if one.token.lane == "answer" and one.end > one.start][-limit:]

    def position(self, lane: wire.Lane) -> int:
        return max((one.end for one in self.accepted if one.token.lane == lane), default=0)

    def drop(self, reason: str) -> None:
        self.state, self.reason = "dropped", reason


@dataclass(frozen=True)
class WindowEnd:
    """The counts of one window, and every member at its end."""

    index: int
    end_ns: int
    cut: str
    counts: Counter[str]
    members: tuple[MemberHistory, ...]
    tier: str

    @property
    def origin_ns(self) -> int:
        return self.end_ns - window_start_ns(self.index + 1)

    @property
    def writing(self) -> list[int]:
        return [number for number, member in enumerate(self.members) if member.writing]

    def expected(self, limits: Limits, *, in_step: bool) -> list[int]:
        """The members whose first text the others wait for: those that could begin at once, and in step those whose
        model loads or waits; without those that are overdue."""
        return [
            number
            for number, member in enumerate(self.members)
            if is_expected(member, self.end_ns, self.origin_ns, limits, in_step=in_step)
        ]


def is_expected(member: MemberHistory, end_ns: int, origin_ns: int, limits: Limits, *, in_step: bool) -> bool:
    """Whether the others wait for its first text at the end of a window."""
    if member.answer or not member.writing or member.queues or member.state == "thinking":
        return False
    if not member.claim:
        return end_ns < origin_ns + limits.claim_waits_ms * NS_PER_MS
    could_begin = member.ready and end_ns < member.first_token_from_ns + limits.frontier_waits_ms * NS_PER_MS
    if not in_step:
        return could_begin
    if member.held_back:
        return True
    loads_ns = [] if member.loading_sign_ns is None else [member.loading_sign_ns]
    if member.state == "loading":
        since_ns = loads_ns
    elif member.waiting_ns is not None:
        since_ns = [member.waiting_ns]
    else:
        since_ns = loads_ns
    return could_begin or any(end_ns < at_ns + limits.loading_waits_ms * NS_PER_MS for at_ns in since_ns)


def opening_of(stream: Stream) -> Opening:
    opening = wire.decode_entry(stream[0][1])
    assert isinstance(opening, Opening)
    return opening


def window_ends(stream: Stream, windows: int) -> Iterator[WindowEnd]:
    """Every window's end, up to the window in which no member writes any more."""
    opening, cut = opening_of(stream), stream[0][0]
    origin_ns = next_grid_point_ns(entry_ms(cut) * NS_PER_MS)
    window_of = [window_of_entry(origin_ns, entry_ms(entry_id)) for entry_id, _ in stream]
    members, tiers = [MemberHistory(queues=member.queues) for member in opening.members], [opening.tier]
    for index in range(max(windows, window_of[-1] + 1 if len(stream) > 1 else 0)):
        counts: Counter[str] = Counter()
        for order in range(1, len(stream)):
            if window_of[order] == index:
                cut, raw = stream[order]
                counts.update(_add_entry(raw, cut, order, index, opening, members, tiers))
        end_ns = origin_ns + window_start_ns(index + 1)
        for member in members:
            if member.writing:
                _check_timeouts(member, end_ns, origin_ns, opening)
        if opening.sync == "step":
            _start_members(members, end_ns, origin_ns, window_start_ns(index) + origin_ns, opening.limits)
        copies = tuple(replace(member, accepted=list(member.accepted)) for member in members)
        yield WindowEnd(index, end_ns, cut, counts, copies, tiers[-1])
        if not any(member.writing for member in members):
            return


def _start_members(members: list[MemberHistory], end_ns: int, origin_ns: int, start_ns: int, limits: Limits) -> None:
    """Members that pause are started once no member is expected whose model is not ready; their first-token time-out
    begins with that window."""
    not_ready = [member for member in members if not member.ready]
    preparing = [one for one in not_ready if is_expected(one, end_ns, origin_ns, limits, in_step=True)]
    for member in members:
        if member.pauses and member.claim and not member.was_started and not preparing:
            member.was_started = True
            member.first_token_from_ns = max(member.first_token_from_ns, start_ns)


def _add_entry(
    raw: bytes, entry_id: str, order: int, window: int, opening: Opening, members: list[MemberHistory], tiers: list[str]
) -> list[str]:
    """Applies one entry; `tiers` grows with each fall. Returns the names of the counts that the entry raises."""
    counted: list[str] = []
    try:
        entry = wire.decode_entry(raw)
    except Malformed:
        return ["dead_letters"]
    if isinstance(entry, Opening) or not _is_valid(entry, len(members)):
        return ["dead_letters"]
    if isinstance(entry, wire.Beat):
        for member in members:
            if member.writing:
                _add_beat(member, opening.limits)
    elif isinstance(entry, wire.Cancel):
        for number, member in enumerate(members):
            if member.writing and (not entry.members or number in entry.members):
                member.drop(entry.reason)
    else:
        entry_ns = entry_ms(entry_id) * NS_PER_MS
        if entry_ns - entry.written_ns > opening.limits.allowed_lateness_ms * NS_PER_MS:
            counted.append("late")
        member = members[entry.member]
        if not member.writing:
            return counted
        if isinstance(entry, wire.Token):
            counted += _add_token(member, entry, order, entry_ns, window)
        else:
            _add_mark(member, entry, entry_id, entry_ns)
            if isinstance(entry, wire.Starved) and entry.claim == member.claim and not member.accepted:
                _starve(entry, opening, members, tiers)
    return counted


def _starve(mark: wire.Starved, opening: Opening, members: list[MemberHistory], tiers: list[str]) -> None:
    """There is no memory for one member. The second time, or alone, it is dropped; else the session falls one tier and
    the lightest members are dropped, at least one: among equals the starved member first, then the last. Where room
    does not help it, it is dropped before all others."""
    number, reason = mark.member, mark.reason
    writing = [other for other, member in enumerate(members) if member.writing]
    if members[number].starved or writing == [number]:
        members[number].drop(reason)
        return
    members[number].starved = True
    allowed, ending = len(writing) - 1, ""
    if len(tiers) <= len(opening.ladder):
        rung = opening.ladder[len(tiers) - 1]
        tiers.append(rung.tier)
        allowed, ending = min(allowed, rung.max_parallel_models), f"; the session fell to the {rung.tier} tier"
    while len(writing) > allowed:
        least = min(opening.members[other].weight for other in writing)
        equals = [other for other in writing if opening.members[other].weight == least]
        goes_first = number in equals or (not mark.room_helps and number in writing)
        dropped = number if goes_first else max(equals)
        writing.remove(dropped)
        why = reason if dropped == number else f"it made room: no memory for {opening.members[number].display_name}"
        members[dropped].drop(why + ending)


def _is_valid(entry: wire.Token | wire.Mark, member_count: int) -> bool:
    """True where it names members of the session only and its claim, where it has one, is an entry id."""
    if isinstance(entry, wire.Beat):
        return True
    if isinstance(entry, wire.Cancel):
        return all(0 <= member < member_count for member in entry.members)
    is_claim_valid = isinstance(entry, wire.Claim) or is_entry_id(entry.claim)
    return 0 <= entry.member < member_count and is_claim_valid


def _add_beat(member: MemberHistory, limits: Limits) -> None:
    member.silent_beats += 1
    if member.claim and member.silent_beats >= limits.beats_without_entry:
        member.drop("producer gone")
    if not member.claim and member.silent_beats >= limits.beats_without_claim:
        member.drop("nobody serves it")


def _add_token(member: MemberHistory, token: wire.Token, order: int, entry_ns: int, window: int) -> list[str]:
    if not member.claim or token.claim != member.claim:
        return ["duplicates"]
    member.silent_beats = 0
    if token.seq != len(member.accepted):
        return ["duplicates"] if token.seq < len(member.accepted) else []
    start = member.position(token.lane)
    text = token.text.lstrip(WHITE_SPACE) if token.lane == "answer" and start == 0 else token.text
    member.accepted.append(Accepted(token, order, entry_ns, window, start, start + len(text.encode())))
    member.state = "answering" if token.lane == "answer" else "thinking"
    return []


def _add_mark(member: MemberHistory, mark: MemberMark, entry_id: str, entry_ns: int) -> None:
    if isinstance(mark, wire.Claim):
        if not member.accepted:
            member.claim, member.pauses, member.state, member.silent_beats = entry_id, mark.pauses, "waiting", 0
            member.first_token_from_ns, member.loading_ns, member.waiting_ns = (
                entry_ns,
                None,
                entry_ns if mark.waits else None,
            )
            member.loading_sign_ns, member.was_started = None, False
    elif isinstance(mark, wire.Failed):
        is_later = bool(member.accepted) and entry_order(mark.claim) > entry_order(member.claim)
        if mark.claim == member.claim or is_later:
            member.drop(mark.reason)
    elif mark.claim != member.claim:
        return
    elif isinstance(mark, wire.Finished):
        if mark.tokens == len(member.accepted):
            member.ended, member.reason = True, mark.reason
    else:
        member.silent_beats = 0
        if not member.accepted:
            _add_sign(member, mark, entry_ns)


def _add_sign(member: MemberHistory, mark: MemberMark, entry_ns: int) -> None:
    """Waiting counts from its first sign until a sign of neither waiting nor loading; loading from its first sign in a
    row."""
    if isinstance(mark, wire.Waiting):
        member.state, member.first_token_from_ns, member.loading_ns = "waiting", entry_ns, None
        if member.waiting_ns is None:
            member.waiting_ns = entry_ns
    elif isinstance(mark, wire.Alive):
        if member.loading_ns is not None or member.waiting_ns is not None:
            member.state, member.first_token_from_ns = "waiting", entry_ns
            member.loading_ns = member.waiting_ns = None
    else:
        member.state, member.first_token_from_ns, member.loading_sign_ns = "loading", entry_ns, entry_ns
        if member.loading_ns is None:
            member.loading_ns = entry_ns


def _check_timeouts(member: MemberHistory, end_ns: int, origin_ns: int, opening: Opening) -> None:
    limits = opening.limits
    if end_ns - origin_ns >= limits.life_ms * NS_PER_MS:
        member.drop(f"the session reached its longest life of {limits.life_ms / 60_000:g} min")
    elif not member.claim or member.accepted or (opening.sync == "step" and member.held_back):
        return
    elif member.state == "loading":
        assert member.loading_ns is not None
        if end_ns - member.loading_ns >= limits.loading_ms * NS_PER_MS:
            member.drop(f"still loading after {limits.loading_ms / 1_000:g} s (limits.loading_ms)")
    elif member.waiting_ns is not None and end_ns - member.waiting_ns >= limits.waiting_ms * NS_PER_MS:
        member.drop(f"still waiting after {limits.waiting_ms / 1_000:g} s (limits.waiting_ms)")
    elif end_ns - member.first_token_from_ns >= limits.first_token_ms * NS_PER_MS:
        member.drop(f"no first token within {limits.first_token_ms / 1_000:g} s (limits.first_token_ms)")
