"""The frames of a token stream, computed slowly and straight from their definitions: what the fast core must agree
with.

    stream --lives()--> for each window: what was counted, who runs and why not, every token accepted so far
                            |
                            +--> energy, frontier and diversity, anew for each window, from those tokens

Shares nothing with the core but the wire structs and the grid. An entry's time is its id's; times are absolute
nanoseconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from typing import Literal

import msgspec

from schemas import entries as wire
from schemas.errors import Malformed
from schemas.frames import FRAME_VERSION, Frame, MemberFrame, MemberState, Mode, TokenFrame
from schemas.grid import NS_PER_MS, NS_PER_S, next_grid_point_ns, window_of_entry, window_start_ns
from schemas.keys import entry_ms, entry_order, is_entry_id
from schemas.sessions import EnergyProfile, Limits, Member, Opening

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
    """One member, after some entries. `heard_ns` is when patience with its first token began."""

    claim: str = ""
    heard_ns: int = 0
    loading_ns: int | None = None
    waiting_ns: int | None = None
    silence: int = 0
    state: MemberState = "waiting"
    reason: str | None = None
    accepted: list[Accepted] = field(default_factory=list)
    starved: bool = False

    @property
    def running(self) -> bool:
        return self.state not in ("finished", "dropped")

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
    def running(self) -> list[int]:
        return [number for number, life in enumerate(self.lives) if life.running]


@dataclass(frozen=True)
class Frontier:
    """x, who was concerned when it was last measured, and what was measured then."""

    x: int | None = None
    concerned: tuple[int, ...] = ()
    diversity_index: float = 0.5
    di_source: Literal["logprobs", "fallback"] = "fallback"
    sync_lag_ms: float | None = None
    arrival_skew_ms: float | None = None


def oracle_frames(stream: Stream, windows: int) -> list[Frame]:
    """Frames 0.. up to the final one; without one, at least `windows` of them and all up to the last entry's window.

    `stream` holds (entry id, packed entry) pairs and begins with the opening, which asks for no window by itself.
    """
    opening = opening_of(stream)
    mode: Mode = "single" if len(opening.members) == 1 else "free"
    frontier = Frontier()
    frames: list[Frame] = []
    for window in lives(stream, windows):
        frontier = frontier_after(frontier, window, opening)
        mode = mode if not window.running else "single" if len(window.running) == 1 else "free"
        frames.append(_frame(opening, window, frontier, mode))
    return frames


def accepted_tokens(stream: Stream, windows: int) -> list[list[Accepted]]:
    """Each member's accepted tokens in order; nothing where the stream has no window."""
    last = list(lives(stream, windows))[-1:]
    return [life.accepted for window in last for life in window.lives]


def opening_of(stream: Stream) -> Opening:
    opening = wire.decode_entry(stream[0][1])
    assert isinstance(opening, Opening)
    return opening


# --- who lives, and what was accepted ---------------------------------------------------------------------------------


def lives(stream: Stream, windows: int) -> Iterator[WindowEnd]:
    """Every window's end, up to the one in which nobody runs any more."""
    opening, cut = opening_of(stream), stream[0][0]
    origin_ns = next_grid_point_ns(entry_ms(cut) * NS_PER_MS)
    window_of = [window_of_entry(origin_ns, entry_ms(entry_id)) for entry_id, _ in stream]
    members, tiers = [Life() for _ in opening.members], [opening.tier]
    for index in range(max(windows, window_of[-1] + 1 if len(stream) > 1 else 0)):
        counts: Counter[str] = Counter()
        for place in range(1, len(stream)):
            if window_of[place] == index:
                cut, raw = stream[place]
                counts.update(_hear(raw, cut, place, index, opening, members, tiers))
        end_ns = origin_ns + window_start_ns(index + 1)
        for life in members:
            if life.running:
                _check_patience(life, end_ns, origin_ns, opening.limits)
        copies = tuple(replace(life, accepted=list(life.accepted)) for life in members)
        yield WindowEnd(index, end_ns, cut, counts, copies, tiers[-1])
        if not any(life.running for life in members):
            return


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
            if life.running:
                _hear_beat(life, opening.limits)
    elif isinstance(entry, wire.Cancel):
        for number, life in enumerate(members):
            if life.running and (not entry.members or number in entry.members):
                life.drop(entry.reason)
    else:
        entry_ns = entry_ms(entry_id) * NS_PER_MS
        if entry_ns - entry.written_ns > opening.limits.allowed_lateness_ms * NS_PER_MS:
            counted.append("late")
        life = members[entry.member]
        if not life.running:
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
    running = [other for other, life in enumerate(members) if life.running]
    if members[number].starved or running == [number]:
        members[number].drop(reason)
        return
    members[number].starved = True
    allowed, ending = len(running) - 1, ""
    if len(tiers) <= len(opening.ladder):
        rung = opening.ladder[len(tiers) - 1]
        tiers.append(rung.tier)
        allowed, ending = min(allowed, rung.max_parallel_models), f"; the session fell to the {rung.tier} tier"
    while len(running) > allowed:
        least = min(opening.members[other].weight for other in running)
        equals = [other for other in running if opening.members[other].weight == least]
        goes_first = number in equals or (not mark.room_helps and number in running)
        leaving = number if goes_first else max(equals)
        running.remove(leaving)
        why = reason if leaving == number else f"it made room: no memory for {opening.members[number].model}"
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
            life.claim, life.heard_ns, life.loading_ns, life.waiting_ns = entry_id, entry_ns, None, None
            life.state, life.silence = "waiting", 0
    elif isinstance(mark, wire.Failed):
        is_later = bool(life.accepted) and entry_order(mark.claim) > entry_order(life.claim)
        if mark.claim == life.claim or is_later:
            life.drop(mark.reason)
    elif mark.claim != life.claim:
        return
    elif isinstance(mark, wire.Finished):
        if mark.tokens == len(life.accepted):
            life.state, life.reason = "finished", mark.reason
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
        life.state, life.heard_ns = "loading", entry_ns
        if life.loading_ns is None:
            life.loading_ns = entry_ns


def _check_patience(life: Life, end_ns: int, origin_ns: int, limits: Limits) -> None:
    if end_ns - origin_ns >= limits.life_ms * NS_PER_MS:
        life.drop(f"the session reached its longest life of {limits.life_ms / 60_000:g} min")
    elif not life.claim or life.accepted:
        return
    elif life.state == "loading":
        assert life.loading_ns is not None
        if end_ns - life.loading_ns >= limits.loading_ms * NS_PER_MS:
            life.drop(f"still loading after {limits.loading_ms / 1_000:g} s")
    elif life.waiting_ns is not None and end_ns - life.waiting_ns >= limits.waiting_ms * NS_PER_MS:
        life.drop(f"still waiting after {limits.waiting_ms / 1_000:g} s")
    elif end_ns - life.heard_ns >= limits.first_token_ms * NS_PER_MS:
        life.drop(f"no first token within {limits.first_token_ms / 1_000:g} s")


# --- energy -----------------------------------------------------------------------------------------------------------


def settled_groups(accepted: list[Accepted]) -> list[list[Accepted]]:
    """Tokens that came together in one window. What follows of an arrival that is settled already makes no new
    group."""
    groups: list[list[Accepted]] = []
    for _, together in groupby(accepted, key=lambda one: (one.window, one.token.arrival_ns)):
        group = list(together)
        if not groups or groups[-1][0].token.arrival_ns != group[0].token.arrival_ns:
            groups.append(group)
    return groups


def heard_in_second_to(t_ns: int, accepted: list[Accepted]) -> int:
    return sum(t_ns - NS_PER_S < one.entry_ns <= t_ns for one in accepted)


def certainty_of_token(token: wire.Token) -> float | None:
    """1 - H / ln K of the received list; None below two distinct pieces, or without real logprobs."""
    return certainty_of_list(bytes(token.top)) if token.quality == "real" else None


@cache
def certainty_of_list(top: bytes) -> float | None:
    masses: dict[bytes, float] = {}
    for piece, logprob in wire.unpack_top(msgspec.Raw(top)):
        masses[piece] = masses.get(piece, 0.0) + math.exp(min(logprob, 0.0))
    total = sum(masses.values())
    if len(masses) < 2 or total == 0.0:
        return None
    shares = [mass / total for mass in masses.values() if mass > 0.0]
    entropy = -sum(share * math.log(share) for share in shares)
    return min(1.0, max(0.0, 1.0 - entropy / math.log(len(masses))))


def certainty_of_group(group: list[Accepted]) -> float | None:
    measured = [c for one in group if (c := certainty_of_token(one.token)) is not None]
    return sum(measured) / len(measured) if measured else None


def latest_certainty(groups: Sequence[list[Accepted]]) -> float | None:
    measured = [c for group in groups if (c := certainty_of_group(group)) is not None]
    return measured[-1] if measured else None


def decayed(energy: float, since_ns: int, t_ns: int, profile: EnergyProfile) -> float:
    silent_ms = (t_ns - since_ns) / NS_PER_MS - profile.stall_ms
    return energy * math.pow(0.5, max(0.0, silent_ms) / profile.half_life_ms)


def energy_at(t_ns: int, accepted: list[Accepted], profile: EnergyProfile) -> float:
    """A member's energy at a window's end: the design card's formula, one update for each settled group."""
    energy, certainty, groups = 0.0, None, settled_groups(accepted)
    for number, group in enumerate(groups):
        updated_ns = group[-1].entry_ns
        # What the same millisecond brought after this group is no part of its update: it had not been accepted yet.
        heard = [one for one in accepted if one.place <= group[-1].place]
        tps = heard_in_second_to(updated_ns, heard)
        velocity = _unit((tps - profile.tps_min) / (profile.tps_max - profile.tps_min))
        friction = 1.0
        if number:
            dt_ms = (group[0].token.arrival_ns - groups[number - 1][0].token.arrival_ns) / NS_PER_MS
            friction = 1.0 - _unit((dt_ms - profile.stall_ms) / (profile.ceil_ms - profile.stall_ms))
            energy = decayed(energy, groups[number - 1][-1].entry_ns, updated_ns, profile)
        measured = certainty_of_group(group)
        certainty = certainty if measured is None else measured
        base = 0.7 * velocity + 0.3 * friction
        if certainty is not None:
            base = 0.5 * velocity + 0.3 * certainty + 0.2 * friction
        energy = profile.smoothing * base + (1.0 - profile.smoothing) * energy
    return _unit(decayed(energy, groups[-1][-1].entry_ns, t_ns, profile)) if groups else 0.0


def ensemble_energy(opening: Opening, window: WindowEnd, energies: list[float]) -> float:
    finished = [number for number, life in enumerate(window.lives) if life.state == "finished"]
    concerned = window.running or finished
    weight = sum(opening.members[number].weight for number in concerned)
    if weight == 0.0:
        return 0.0
    return min(1.0, sum(opening.members[number].weight * energies[number] for number in concerned) / weight)


def _unit(number: float) -> float:
    return min(1.0, max(0.0, number))


# --- the frontier and the diversity index -----------------------------------------------------------------------------


def frontier_after(before: Frontier, window: WindowEnd, opening: Opening) -> Frontier:
    positions = {number: window.lives[number].position("answer") for number in window.running}
    concerned = tuple(number for number, position in positions.items() if position > (before.x or 0))
    if not concerned:
        return before
    least = min(positions[number] for number in concerned)
    limit = opening.limits.unaligned_tokens
    starts = [one.start for number in concerned for one in window.lives[number].kept_tokens(limit)]
    x = max(before.x or 0, *(start for start in starts if start < least))
    if (x, concerned) == (before.x, before.concerned):
        return before
    return _measured(x, concerned, window, opening)


def _measured(x: int, concerned: tuple[int, ...], window: WindowEnd, opening: Opening) -> Frontier:
    kept = [window.lives[number].kept_tokens(opening.limits.unaligned_tokens) for number in concerned]
    aligned = [one for tokens in kept for one in tokens if one.start <= x < one.end]
    if len(aligned) < len(concerned):
        return Frontier(x, concerned)
    moved = Frontier(x, concerned)
    if len(aligned) > 1:
        releases = [window_start_ns(one.window) for one in aligned]
        arrivals = [one.token.arrival_ns for one in aligned]
        sync_lag_ms = (max(releases) - min(releases)) / NS_PER_MS
        arrival_skew_ms = (max(arrivals) - min(arrivals)) / NS_PER_MS
        moved = replace(moved, sync_lag_ms=sync_lag_ms, arrival_skew_ms=arrival_skew_ms)
    if all(one.token.quality == "real" for one in aligned):
        weights = [opening.members[number].weight for number in concerned]
        moved = replace(moved, diversity_index=diversity_index(aligned, weights), di_source="logprobs")
    return moved


def diversity_index(aligned: list[Accepted], weights: list[float]) -> float:
    """1 - max_b sum_m w_m p_m(b)."""
    if sum(weights) == 0.0:
        weights = [1.0] * len(weights)
    mixture: dict[bytes, float] = {}
    for one, weight in zip(aligned, weights, strict=True):
        for piece, share in piece_distribution(one).items():
            mixture[piece] = mixture.get(piece, 0.0) + weight / sum(weights) * share
    return _unit(1.0 - max(mixture.values(), default=0.0))


def piece_distribution(one: Accepted) -> dict[bytes, float]:
    """p_m: the received list and the sampled piece; sums to at most 1. What the list left out is not spread over it."""
    stripped = WHITE_SPACE.encode() if one.start == 0 else b""
    shares: dict[bytes, float] = {}
    for piece, logprob in wire.unpack_top(one.token.top):
        key = piece.lstrip(stripped) if stripped else piece
        shares[key] = shares.get(key, 0.0) + math.exp(min(logprob, 0.0))
    sampled = one.token.piece or one.token.text.encode()
    sampled = sampled.lstrip(stripped) if stripped else sampled
    if sampled not in shares and one.token.logprob is not None and not math.isnan(one.token.logprob):
        shares[sampled] = math.exp(min(one.token.logprob, 0.0))
    total = sum(shares.values())
    return {piece: share / total for piece, share in shares.items()} if total > 1.0 else shares


# --- frames -----------------------------------------------------------------------------------------------------------


def _frame(opening: Opening, window: WindowEnd, frontier: Frontier, mode: Mode) -> Frame:
    energies = [energy_at(window.end_ns, life.accepted, opening.profile) for life in window.lives]
    return Frame(
        version=FRAME_VERSION,
        session=opening.session,
        window_index=window.index,
        start_ns=window_start_ns(window.index),
        end_ns=window_start_ns(window.index + 1),
        mode=mode,
        final=not window.running,
        cut=window.cut,
        energy=_rounded(ensemble_energy(opening, window, energies)),
        diversity_index=_rounded(frontier.diversity_index),
        di_source=frontier.di_source,
        sync_lag_ms=_rounded_or_none(frontier.sync_lag_ms),
        arrival_skew_ms=_rounded_or_none(frontier.arrival_skew_ms),
        late=window.counts["late"],
        duplicates=window.counts["duplicates"],
        dead_letters=window.counts["dead_letters"],
        members=tuple(
            _member_frame(member, life, window, energy)
            for member, life, energy in zip(opening.members, window.lives, energies, strict=True)
        ),
        tokens=_token_frames(window),
        tier=window.tier,
    )


def _member_frame(member: Member, life: Life, window: WindowEnd, energy: float) -> MemberFrame:
    released = [one.token for one in life.accepted if one.window == window.index]
    return MemberFrame(
        model=member.model,
        state=life.state,
        energy=_rounded(energy),
        tokens_per_s=float(heard_in_second_to(window.end_ns, life.accepted)),
        certainty=_rounded_or_none(latest_certainty(settled_groups(life.accepted))),
        position_bytes=life.position("answer"),
        buffered_tokens=0,
        text="".join(token.text for token in released if token.lane == "answer"),
        thinking="".join(token.text for token in released if token.lane == "thinking"),
        reason=life.reason,
        remote=member.remote,
    )


def _token_frames(window: WindowEnd) -> tuple[TokenFrame, ...]:
    released = [one for life in window.lives for one in life.accepted if one.window == window.index]
    return tuple(
        TokenFrame(
            member=one.token.member,
            lane=one.token.lane,
            seq=one.token.seq,
            start=one.start,
            end=one.end,
            logprob=_token_logprob(one.token.logprob),
            quality=one.token.quality,
        )
        for one in sorted(released, key=lambda one: one.place)
    )


def _token_logprob(logprob: float | None) -> float | None:
    return _rounded(min(logprob, 0.0)) if logprob is not None and math.isfinite(logprob) else None


def _rounded(number: float) -> float:
    return round(number, 9)


def _rounded_or_none(number: float | None) -> float | None:
    return None if number is None else _rounded(number)
