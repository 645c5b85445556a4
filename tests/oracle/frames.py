"""The frames of a token stream, computed slowly and straight from their definitions: the fast core must agree with
them.

    stream --window_ends()--> for each window: counts, each member's state, every token accepted so far
                                  |
                               steps_of()--> released ends, the stepping set, shown states
                                  |
                                  +--> energy and weights ----+--> interference, from numbers as shown
                                  +--> frontier, measures ----+

All of it is computed again for each window from those tokens. Shares nothing with the core but the wire structs and the
grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import groupby

import msgspec

from schemas import entries as wire
from schemas.frames import (
    FRAME_VERSION,
    AlignmentFrame,
    Frame,
    InterferenceFrame,
    Measures,
    MemberFrame,
    TokenFrame,
    WindowCounts,
)
from schemas.grid import NS_PER_MS, NS_PER_S, window_start_ns
from schemas.sessions import EnergyProfile, Member, Opening
from tests.oracle.frontier import Frontier, frontier_after, unit
from tests.oracle.interference import resonates, shown_agreement, shown_interference, wave_of
from tests.oracle.members import Accepted, Stream, WindowEnd, opening_of, window_ends
from tests.oracle.step import Span, Step, held_between, steps_of


def oracle_frames(stream: Stream, windows: int) -> list[Frame]:
    """Frames 0.. up to the final one; without one, at least `windows` of them and all up to the last entry's window.

    `stream` contains (entry id, packed entry) pairs and begins with the opening, which makes no window by itself.
    """
    opening = opening_of(stream)
    frontiers = [Frontier()]
    frames: list[Frame] = []
    steps: list[Step] = []
    for step in steps_of(stream, windows):
        steps.append(step)
        weights = confidence_weights(opening, step.window)
        frontiers.append(frontier_after(frontiers[-1], steps, weights, opening.limits))
        frame = _frame(opening, steps, frontiers[-1])
        frames.append(_with_interference(frame, frames, frontiers[1:], counted_by_ensemble(step)))
    return frames


def accepted_tokens(stream: Stream, windows: int) -> list[list[Accepted]]:
    """Each member's accepted tokens in order; empty where the stream has no window."""
    last = list(window_ends(stream, windows))[-1:]
    return [member.accepted for window in last for member in window.members]


# --- energy -----------------------------------------------------------------------------------------------------------


def settled_groups(accepted: list[Accepted]) -> list[list[Accepted]]:
    """Tokens that arrived together in one window. Further tokens of an arrival that is settled already make no new
    group."""
    groups: list[list[Accepted]] = []
    for _, together in groupby(accepted, key=lambda one: (one.window, one.token.arrival_ns)):
        group = list(together)
        if not groups or groups[-1][0].token.arrival_ns != group[0].token.arrival_ns:
            groups.append(group)
    return groups


def tokens_in_second_to(t_ns: int, accepted: list[Accepted]) -> int:
    return sum(t_ns - NS_PER_S < one.entry_ns <= t_ns for one in accepted)


def certainty_of_token(token: wire.Token) -> float | None:
    """1 - H / ln K of the received list; None below two distinct pieces, or without real logprobs."""
    return certainty_of_list(bytes(token.top)) if token.quality == "real" else None


@cache
def certainty_of_list(top: bytes) -> float | None:
    masses: dict[bytes, float] = {}
    for piece, logprob in wire.unpack_top(msgspec.Raw(top)):
        masses[piece] = masses.get(piece, 0.0) + math.exp(min(logprob, 0.0))
    total = math.fsum(masses.values())
    if len(masses) < 2 or total < 1e-290:
        return None
    shares = [mass / total for mass in masses.values() if mass > 0.0]
    entropy = -math.fsum(share * math.log(share) for share in shares)
    certainty = 1.0 - entropy / math.log(len(masses))
    # Of equal masses it is 0 except for rounding, which would be the whole confidence weight.
    return min(1.0, certainty) if certainty >= 1e-9 else 0.0


def certainty_of_group(group: list[Accepted]) -> float | None:
    measured = [c for one in group if (c := certainty_of_token(one.token)) is not None]
    return math.fsum(measured) / len(measured) if measured else None


def latest_certainty(groups: Sequence[list[Accepted]]) -> float | None:
    measured = [c for group in groups if (c := certainty_of_group(group)) is not None]
    return measured[-1] if measured else None


def decayed(energy: float, since_ns: int, t_ns: int, held: Sequence[Span], profile: EnergyProfile) -> float:
    silent_ms = (t_ns - since_ns - held_between(held, since_ns, t_ns)) / NS_PER_MS - profile.stall_ms
    return energy * math.pow(0.5, max(0.0, silent_ms) / profile.half_life_ms)


def energy_at(t_ns: int, accepted: list[Accepted], held: Sequence[Span], profile: EnergyProfile) -> float:
    """A member's energy at a window's end: the design card's formula, one update for each settled group. Time in which
    it was held does not count."""
    energy, certainty, groups = 0.0, None, settled_groups(accepted)
    for number, group in enumerate(groups):
        updated_ns = group[-1].entry_ns
        # Later tokens of the same millisecond are not part of this update: they were not accepted yet.
        accepted_by_then = [one for one in accepted if one.order <= group[-1].order]
        tps = tokens_in_second_to(updated_ns, accepted_by_then)
        velocity = unit((tps - profile.tps_min) / (profile.tps_max - profile.tps_min))
        friction = 1.0
        if number:
            last = groups[number - 1]
            held_ns = held_between(held, last[-1].entry_ns, updated_ns)
            dt_ms = max(0, group[0].token.arrival_ns - last[0].token.arrival_ns - held_ns) / NS_PER_MS
            friction = 1.0 - unit((dt_ms - profile.stall_ms) / (profile.ceil_ms - profile.stall_ms))
            energy = decayed(energy, last[-1].entry_ns, updated_ns, held, profile)
        measured = certainty_of_group(group)
        certainty = certainty if measured is None else measured
        base = 0.7 * velocity + 0.3 * friction
        if certainty is not None:
            base = 0.5 * velocity + 0.3 * certainty + 0.2 * friction
        energy = profile.smoothing * base + (1.0 - profile.smoothing) * energy
    return unit(decayed(energy, groups[-1][-1].entry_ns, t_ns, held, profile)) if groups else 0.0


def smoothed_certainty(groups: Sequence[list[Accepted]], profile: EnergyProfile) -> float:
    """c~ = a c + (1 - a) c~ for each arrival that has a certainty, beginning at the first; 0.5 before it."""
    smoothed = None
    for group in groups:
        certainty = certainty_of_group(group)
        if certainty is not None:
            before = certainty if smoothed is None else smoothed
            smoothed = profile.smoothing * certainty + (1.0 - profile.smoothing) * before
    return 0.5 if smoothed is None else smoothed


def confidence_weights(opening: Opening, window: WindowEnd) -> list[float]:
    """g of each member at a window's end."""
    weights = [member.weight for member in opening.members]
    if opening.weighting == "fixed":
        return weights
    certainties = [smoothed_certainty(settled_groups(member.accepted), opening.profile) for member in window.members]
    return [weight * certainty for weight, certainty in zip(weights, certainties, strict=True)]


def counted_by_ensemble(step: Step) -> list[int]:
    """The running members; once none runs, those that finished."""
    return step.running or [number for number, state in enumerate(step.states) if state == "finished"]


def ensemble_energy(weights: Sequence[float], energies: Sequence[float]) -> float:
    """The mean over the counted members, from their energies as shown: else it could differ from the mean of the shown
    energies by rounding."""
    total = math.fsum(weights)
    if total == 0.0:
        return 0.0
    return min(1.0, math.fsum(weight * energy for weight, energy in zip(weights, energies, strict=True)) / total)


# --- frames -----------------------------------------------------------------------------------------------------------


def _frame(opening: Opening, steps: Sequence[Step], frontier: Frontier) -> Frame:
    step, window = steps[-1], steps[-1].window
    energies = [
        energy_at(window.end_ns, member.accepted, held, opening.profile)
        for member, held in zip(window.members, step.held, strict=True)
    ]
    weights, counted = confidence_weights(opening, window), counted_by_ensemble(step)
    shown = [_rounded(energies[number]) for number in counted]
    energy = ensemble_energy([weights[number] for number in counted], shown)
    measures = frontier.measures
    return Frame(
        version=FRAME_VERSION,
        session=opening.session,
        window_index=window.index,
        start_ns=window_start_ns(window.index),
        end_ns=window_start_ns(window.index + 1),
        mode=step.mode,
        final=not step.running,
        cut=window.cut,
        energy=_rounded(energy),
        members=tuple(
            _member_frame(member, number, steps, energies[number]) for number, member in enumerate(opening.members)
        ),
        tokens=_token_frames(steps),
        measures=Measures(
            diversity_index=_rounded(measures.diversity_index),
            di_source=measures.di_source,
            di_low=_rounded_or_none(measures.di_low),
            di_covered=_rounded_or_none(measures.di_covered),
            coverage=_rounded_or_none(measures.coverage),
            di_span=_rounded_or_none(measures.di_span),
            span_bytes=measures.span_bytes,
            jsd=_rounded_or_none(measures.jsd),
            entropy_total=_rounded_or_none(measures.entropy_total),
            entropy_within=_rounded_or_none(measures.entropy_within),
            coverage_mass=_rounded_or_none(measures.coverage_mass),
            agreement_source=measures.agreement_source,
        ),
        alignment=AlignmentFrame(
            frontier_bytes=frontier.x,
            shared_prefix=frontier.parted is None if frontier.compares else None,
            diverged_at_bytes=frontier.parted,
            compares=frontier.compares,
            sync_lag_ms=_rounded_or_none(measures.sync_lag_ms),
            arrival_skew_ms=_rounded_or_none(measures.arrival_skew_ms),
        ),
        counts=WindowCounts(**window.counts),
        tier=window.tier,
    )


def _with_interference(frame: Frame, earlier: list[Frame], frontiers: list[Frontier], counted: list[int]) -> Frame:
    """The frame with what follows from numbers as shown; `frontiers` are those of all windows up to it."""
    agreement = shown_agreement([(frontier.measures.agreement, frontier.compares) for frontier in frontiers])
    agreements = [*(one.measures.agreement for one in earlier), agreement]
    interference = shown_interference(earlier[-1].interference.kind if earlier else "neutral", agreements)
    wave = wave_of(frame.energy, [frame.members[number].energy for number in counted], agreement)
    shown = [*((one.interference.kind, one.interference.amplified) for one in earlier), (interference, wave.amplified)]
    return msgspec.structs.replace(
        frame,
        measures=msgspec.structs.replace(frame.measures, agreement=agreement),
        interference=InterferenceFrame(wave.wave, wave.amplified, wave.dampened, interference, resonates(shown)),
    )


def _member_frame(member: Member, number: int, steps: Sequence[Step], energy: float) -> MemberFrame:
    step, window, history = steps[-1], steps[-1].window, steps[-1].window.members[number]
    released_before = len(steps[-2].released_text(number)) if len(steps) > 1 else 0
    thoughts = [one.token for one in history.accepted if one.window == window.index and one.token.lane == "thinking"]
    return MemberFrame(
        model=member.model,
        state=step.states[number],
        energy=_rounded(energy),
        tokens_per_s=float(tokens_in_second_to(window.end_ns, history.accepted)),
        certainty=_rounded_or_none(latest_certainty(settled_groups(history.accepted))),
        position_bytes=step.released[number],
        buffered_tokens=len(history.accepted) - len(step.released_tokens(number)),
        text=step.released_text(number)[released_before:],
        thinking="".join(token.text for token in thoughts),
        reason=history.reason if number not in step.running else None,
        remote=member.remote,
        name=member.name or member.model,
        awaited=step.awaits(number),
    )


def _token_frames(steps: Sequence[Step]) -> tuple[TokenFrame, ...]:
    """The tokens that the last of these windows released, and the one before did not."""
    out = [
        {one.order: one for number in range(len(step.states)) for one in step.released_tokens(number)}
        for step in steps[-2:]
    ]
    released = [one for order, one in out[-1].items() if len(out) == 1 or order not in out[0]]
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
        for one in sorted(released, key=lambda one: one.order)
    )


def _token_logprob(logprob: float | None) -> float | None:
    return _rounded(min(logprob, 0.0)) if logprob is not None and math.isfinite(logprob) else None


def _rounded(number: float) -> float:
    return round(number, 9)


def _rounded_or_none(number: float | None) -> float | None:
    return None if number is None else _rounded(number)
