"""Who writes in a session and what was accepted of it, window by window: the slow way.

    stream --lives()--> for each window: what was counted, who writes and why not, every token accepted so far

What of it goes out, and what a member is shown as, is no matter here: no entry depends on it.

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
    """An accepted token: its place in the stream, the time and window it was heard in, its bytes in its lane."""

    token: wire.Token
    place: int
    entry_ns: int
    window: int
    start: int
    end: int


@dataclass
class Life:
    """One member, after some entries. `pauses` is the winning claim's word; `heard_ns` is when patience with its first
    token began; `signed_ns` is its last sign of loading; one that pauses asks its model once it `was_let_begin`.
    `state` is what its producer does, or did last where `ended`: that it accepted its finish mark."""

    claim: str = ""
    pauses: bool = False
    heard_ns: int = 0
    loading_ns: int | None = None
    waiting_ns: int | None = None
    silence: int = 0
    state: MemberState = "waiting"
    reason: str | None = None
    accepted: list[Accepted] = field(default_factory=list)
    starved: bool = False
    ended: bool = False
    signed_ns: int | None = None
    queues: bool = False
    was_let_begin: bool = False

    @property
    def held_back(self) -> bool:
        """In step mode: it could begin, and pauses until it is let."""
        could_begin = self.ready and not self.answer and self.state in ("waiting", "answering")
        return self.pauses and self.writing and could_begin and not self.was_let_begin

    @property
    def ready(self) -> bool:
        """Its model could write its first token now."""
        return bool(self.accepted) or (bool(self.claim) and self.state != "loading" and self.waiting_ns is None)

    @property
    def writing(self) -> bool:
        """Its producer is at work: nothing else can happen to whoever does not write."""
        return not self.ended and self.state != "dropped"

    @property
    def answer(self) -> bytes:
        """All that it has answered so far, from its first byte that is no white space."""
        said = "".join(one.token.text for one in self.accepted if one.token.lane == "answer")
        return said.lstrip(WHITE_SPACE).encode()

    def kept_tokens(self, limit: int) -> list[Accepted]:
        """The newest tokens that hold bytes of the answer: the only ones that can be aligned."""
        return [one for one in self.accepted if one.token.lane == "answer" and one.end > one.start][-limit:]

    def position(self, lane: wire.Lane) -> int:
        return max((one.end for one in self.accepted if one.token.lane == lane), default=0)

    def drop(self, reason: str) -> None:
        self.state, self.reason = "dropped", reason


@dataclass(frozen=True)
class WindowEnd:
    """What was counted in one window, and every member at its end."""

    index: int
    end_ns: int
    cut: str
    counts: Counter[str]
    lives: tuple[Life, ...]
    tier: str

    @property
    def origin_ns(self) -> int:
        return self.end_ns - window_start_ns(self.index + 1)

    @property
    def writing(self) -> list[int]:
        return [number for number, life in enumerate(self.lives) if life.writing]

    def expected(self, limits: Limits, *, in_step: bool) -> list[int]:
        """The members whose first text the others wait for: those who could begin at once, and in step those whose
        model is on its way; less those who are overdue."""
        return [
            number
            for number, life in enumerate(self.lives)
            if is_expected(life, self.end_ns, self.origin_ns, limits, in_step=in_step)
        ]


def is_expected(life: Life, end_ns: int, origin_ns: int, limits: Limits, *, in_step: bool) -> bool:
    """Whether the others wait for its first text at the end of a window."""
    if life.answer or not life.writing or life.queues or life.state == "thinking":
        return False
    if not life.claim:
        return end_ns < origin_ns + limits.claim_waits_ms * NS_PER_MS
    could_begin = life.ready and end_ns < life.heard_ns + limits.frontier_waits_ms * NS_PER_MS
    if not in_step:
        return could_begin
    if life.held_back:
        return True
    loads_ns = [] if life.signed_ns is None else [life.signed_ns]
    if life.state == "loading":
        since_ns = loads_ns
    elif life.waiting_ns is not None:
        since_ns = [life.waiting_ns]
    else:
        since_ns = loads_ns
    return could_begin or any(end_ns < at_ns + limits.loading_waits_ms * NS_PER_MS for at_ns in since_ns)


def opening_of(stream: Stream) -> Opening:
    opening = wire.decode_entry(stream[0][1])
    assert isinstance(opening, Opening)
    return opening


def lives(stream: Stream, windows: int) -> Iterator[WindowEnd]:
    """Every window's end, up to the one in which nobody writes any more."""
    opening, cut = opening_of(stream), stream[0][0]
    origin_ns = next_grid_point_ns(entry_ms(cut) * NS_PER_MS)
    window_of = [window_of_entry(origin_ns, entry_ms(entry_id)) for entry_id, _ in stream]
    members, tiers = [Life(queues=member.queues) for member in opening.members], [opening.tier]
    for index in range(max(windows, window_of[-1] + 1 if len(stream) > 1 else 0)):
        counts: Counter[str] = Counter()
        for place in range(1, len(stream)):
            if window_of[place] == index:
                cut, raw = stream[place]
                counts.update(_hear(raw, cut, place, index, opening, members, tiers))
        end_ns = origin_ns + window_start_ns(index + 1)
        for life in members:
            if life.writing:
                _check_patience(life, end_ns, origin_ns, opening)
        if opening.sync == "step":
            _let_begin(members, end_ns, origin_ns, window_start_ns(index) + origin_ns, opening.limits)
        copies = tuple(replace(life, accepted=list(life.accepted)) for life in members)
        yield WindowEnd(index, end_ns, cut, counts, copies, tiers[-1])
        if not any(life.writing for life in members):
            return


def _let_begin(members: list[Life], end_ns: int, origin_ns: int, start_ns: int, limits: Limits) -> None:
    """Members that pause begin once no member is on its way whose model is not ready; patience with their first token
    begins with the window in which they are let."""
    coming = [life for life in members if is_expected(life, end_ns, origin_ns, limits, in_step=True) and not life.ready]
    for life in members:
        if life.pauses and life.claim and not life.was_let_begin and not coming:
            life.was_let_begin = True
            life.heard_ns = max(life.heard_ns, start_ns)


def _hear(
    raw: bytes, entry_id: str, place: int, window: int, opening: Opening, members: list[Life], tiers: list[str]
) -> list[str]:
    """Lets one entry take effect; `tiers` grows with each fall. Returns the names of what counts it."""
    counted: list[str] = []
    try:
        entry = wire.decode_entry(raw)
    except Malformed:
        return ["dead_letters"]
    if isinstance(entry, Opening) or not _is_sound(entry, len(members)):
        return ["dead_letters"]
    if isinstance(entry, wire.Beat):
        for life in members:
            if life.writing:
                _hear_beat(life, opening.limits)
    elif isinstance(entry, wire.Cancel):
        for number, life in enumerate(members):
            if life.writing and (not entry.members or number in entry.members):
                life.drop(entry.reason)
    else:
        entry_ns = entry_ms(entry_id) * NS_PER_MS
        if entry_ns - entry.written_ns > opening.limits.allowed_lateness_ms * NS_PER_MS:
            counted.append("late")
        life = members[entry.member]
        if not life.writing:
            return counted
        if isinstance(entry, wire.Token):
            counted += _hear_token(life, entry, place, entry_ns, window)
        else:
            _hear_mark(life, entry, entry_id, entry_ns)
            if isinstance(entry, wire.Starved) and entry.claim == life.claim and not life.accepted:
                _starve(entry, opening, members, tiers)
    return counted


def _starve(mark: wire.Starved, opening: Opening, members: list[Life], tiers: list[str]) -> None:
    """One member found no memory. The second time, or alone, it leaves; else the session falls one tier and the
    lightest leave, one at least: among equals the starved member first, then whoever was named last. Where nobody
    could make room for it, it leaves before them all."""
    number, reason = mark.member, mark.reason
    writing = [other for other, life in enumerate(members) if life.writing]
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
        leaving = number if goes_first else max(equals)
        writing.remove(leaving)
        why = reason if leaving == number else f"it made room: no memory for {opening.members[number].display_name}"
        members[leaving].drop(why + ending)


def _is_sound(entry: wire.Token | wire.Mark, member_count: int) -> bool:
    """True where everyone it names is a member and its claim, where it has one, is an entry id."""
    if isinstance(entry, wire.Beat):
        return True
    if isinstance(entry, wire.Cancel):
        return all(0 <= member < member_count for member in entry.members)
    claim_is_sound = isinstance(entry, wire.Claim) or is_entry_id(entry.claim)
    return 0 <= entry.member < member_count and claim_is_sound


def _hear_beat(life: Life, limits: Limits) -> None:
    life.silence += 1
    if life.claim and life.silence >= limits.beats_without_entry:
        life.drop("producer gone")
    if not life.claim and life.silence >= limits.beats_without_claim:
        life.drop("nobody serves it")


def _hear_token(life: Life, token: wire.Token, place: int, entry_ns: int, window: int) -> list[str]:
    if not life.claim or token.claim != life.claim:
        return ["duplicates"]
    life.silence = 0
    if token.seq != len(life.accepted):
        return ["duplicates"] if token.seq < len(life.accepted) else []
    start = life.position(token.lane)
    text = token.text.lstrip(WHITE_SPACE) if token.lane == "answer" and start == 0 else token.text
    life.accepted.append(Accepted(token, place, entry_ns, window, start, start + len(text.encode())))
    life.state = "answering" if token.lane == "answer" else "thinking"
    return []


def _hear_mark(life: Life, mark: MemberMark, entry_id: str, entry_ns: int) -> None:
    if isinstance(mark, wire.Claim):
        if not life.accepted:
            life.claim, life.pauses, life.state, life.silence = entry_id, mark.pauses, "waiting", 0
            life.heard_ns, life.loading_ns, life.waiting_ns = entry_ns, None, entry_ns if mark.waits else None
            life.signed_ns, life.was_let_begin = None, False
    elif isinstance(mark, wire.Failed):
        is_later = bool(life.accepted) and entry_order(mark.claim) > entry_order(life.claim)
        if mark.claim == life.claim or is_later:
            life.drop(mark.reason)
    elif mark.claim != life.claim:
        return
    elif isinstance(mark, wire.Finished):
        if mark.tokens == len(life.accepted):
            life.ended, life.reason = True, mark.reason
    else:
        life.silence = 0
        if not life.accepted:
            _hear_sign(life, mark, entry_ns)


def _hear_sign(life: Life, mark: MemberMark, entry_ns: int) -> None:
    """Waiting counts from its first sign until the producer says that it is neither waiting nor loading; loading from
    its first sign in a row."""
    if isinstance(mark, wire.Waiting):
        life.state, life.heard_ns, life.loading_ns = "waiting", entry_ns, None
        if life.waiting_ns is None:
            life.waiting_ns = entry_ns
    elif isinstance(mark, wire.Alive):
        if life.loading_ns is not None or life.waiting_ns is not None:
            life.state, life.heard_ns, life.loading_ns, life.waiting_ns = "waiting", entry_ns, None, None
    else:
        life.state, life.heard_ns, life.signed_ns = "loading", entry_ns, entry_ns
        if life.loading_ns is None:
            life.loading_ns = entry_ns


def _check_patience(life: Life, end_ns: int, origin_ns: int, opening: Opening) -> None:
    limits = opening.limits
    if end_ns - origin_ns >= limits.life_ms * NS_PER_MS:
        life.drop(f"the session reached its longest life of {limits.life_ms / 60_000:g} min")
    elif not life.claim or life.accepted or (opening.sync == "step" and life.held_back):
        return
    elif life.state == "loading":
        assert life.loading_ns is not None
        if end_ns - life.loading_ns >= limits.loading_ms * NS_PER_MS:
            life.drop(f"still loading after {limits.loading_ms / 1_000:g} s")
    elif life.waiting_ns is not None and end_ns - life.waiting_ns >= limits.waiting_ms * NS_PER_MS:
        life.drop(f"still waiting after {limits.waiting_ms / 1_000:g} s")
    elif end_ns - life.heard_ns >= limits.first_token_ms * NS_PER_MS:
        life.drop(f"no first token within {limits.first_token_ms / 1_000:g} s")
