"""Energy in [0, 1]: how fast, how surely and how smoothly a member's tokens come, and the ensemble's mean of it.

    velocity   v = clamp((tps - tps_min) / (tps_max - tps_min))       tokens of the last second
    certainty  c = 1 - H / ln K                                       entropy of the top-K list, K distinct pieces
    friction   f = 1 - clamp((dt - stall_ms) / (ceil_ms - stall_ms))  dt between arrivals
    base       0.5 v + 0.3 c + 0.2 f, or 0.7 v + 0.3 f where no certainty was ever measured
    E          a * base + (1 - a) * E_prev, one update for each distinct arrival
    c~         a * c + (1 - a) * c~, one update for each arrival with a certainty: what a weight may follow

    ensemble   sum(g_m E_m) / sum(g_m)                                g_m the confidence weights

Between arrivals E holds for stall_ms and then halves every half_life_ms; E_prev is that decayed value. Time in which
the member is held, for others to keep up, counts neither for that nor for dt.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from operator import mul

import msgspec

from aggregator.numbers.arithmetic import clamp, normalised, plain_sum
from aggregator.numbers.proposal import Proposal
from aggregator.numbers.toplist import TopList
from schemas.grid import NS_PER_MS, NS_PER_S
from schemas.sessions import EnergyProfile, Opening

_LN2 = math.log(2.0)
_LEAST_CERTAINTY = 1e-9
# What a member's certainty counts as a weight before it was ever measured.
_UNKNOWN_CERTAINTY = 0.5
# Below this sum exponentials lose their digits: the list has no usable entropy.
_LEAST_TOTAL = 1e-290


def certainty_of(top: TopList) -> float | None:
    """1 - H / ln K in [0, 1] of the list normalised to sum 1. None with fewer than two distinct pieces, or where the
    probabilities sum to almost 0.

    H is Shannon's entropy in nats and ln K its largest value: 1 means that one piece is certain, 0 that all are equally
    probable.
    """
    count, total = len(top.probabilities), top.total
    if count < 2 or total < _LEAST_TOTAL:
        return None
    # H of the masses m divided by their total T, without dividing each: ln T - sum(m ln m) / T.
    certainty = clamp(1.0 - (math.log(total) - top.entropy_terms / total) / math.log(count))
    # Of K equal probabilities rounding leaves 1e-16, which as the only weight above 0 would outweigh all members.
    return certainty if certainty >= _LEAST_CERTAINTY else 0.0


class EnergyMeter(msgspec.Struct, array_like=True):
    """The part of a member's past on which its energy depends. Times are nanoseconds of Redis's clock; arrivals of its
    producer's clock."""

    energy: float = 0.0
    certainty: float | None = None
    # c~, which moves towards each new certainty by the profile's smoothing.
    smoothed_certainty: float | None = None
    last_token_ns: int = 0
    last_arrival_ns: int | None = None
    # Entry times of the tokens of the last second.
    recent_ns: list[int] = []
    # The arrival that is being gathered: tokens that arrived together make one update.
    gathered_arrival_ns: int | None = None
    gathered_ns: int = 0
    gathered_certainties: list[float] = []
    # How long it was held since the last token: that time is no silence.
    held_ns: int = 0
    held_from_ns: int | None = None

    def add_token(self, entry_ns: int, arrival_ns: int, certainty: float | None, profile: EnergyProfile) -> None:
        """A token that arrived at `arrival_ns` and whose entry has the time `entry_ns`."""
        if arrival_ns != self.gathered_arrival_ns:
            self.settle(profile)
            # Tokens of an arrival that an earlier window has settled count for tokens per second alone.
            self.gathered_arrival_ns = arrival_ns if arrival_ns != self.last_arrival_ns else None
        self.recent_ns.append(entry_ns)
        if self.gathered_arrival_ns is None:
            return
        self.gathered_ns = entry_ns
        if certainty is not None:
            self.gathered_certainties.append(certainty)

    def settle(self, profile: EnergyProfile) -> None:
        """Makes the update of the arrival gathered so far, if there is one."""
        arrival_ns = self.gathered_arrival_ns
        if arrival_ns is None:
            return
        if self.gathered_certainties:
            self.certainty = plain_sum(self.gathered_certainties) / len(self.gathered_certainties)
            before = self.certainty if self.smoothed_certainty is None else self.smoothed_certainty
            self.smoothed_certainty = clamp(profile.smoothing * self.certainty + (1.0 - profile.smoothing) * before)
        dt_ms = None
        if self.last_arrival_ns is not None:
            dt_ms = max(0, arrival_ns - self.last_arrival_ns - self._held_to(self.gathered_ns)) / NS_PER_MS
        base = _base(self.tokens_per_s(self.gathered_ns), self.certainty, dt_ms, profile)
        smoothing = profile.smoothing
        self.energy = clamp(smoothing * base + (1.0 - smoothing) * self.at(self.gathered_ns, profile))
        self.last_token_ns, self.last_arrival_ns = self.gathered_ns, arrival_ns
        self.gathered_arrival_ns, self.gathered_certainties, self.held_ns = None, [], 0
        if self.held_from_ns is not None:
            self.held_from_ns = max(self.held_from_ns, self.gathered_ns)

    def hold(self, t_ns: int) -> None:
        """From `t_ns` on it may not write."""
        self.held_from_ns = t_ns

    def resume(self, t_ns: int) -> None:
        """From `t_ns` on it may write."""
        self.held_ns, self.held_from_ns = self._held_to(t_ns), None

    def _held_to(self, t_ns: int) -> int:
        """How long it was held between the last token and `t_ns`, in nanoseconds."""
        return self.held_ns + (max(0, t_ns - self.held_from_ns) if self.held_from_ns is not None else 0)

    def at(self, t_ns: int, profile: EnergyProfile) -> float:
        """E at `t_ns`, in [0, 1]: the last update, which decays from stall_ms after its arrival on."""
        idle_ms = (t_ns - self.last_token_ns - self._held_to(t_ns)) / NS_PER_MS - profile.stall_ms
        if idle_ms <= 0.0:
            return self.energy
        return clamp(self.energy * math.exp(-_LN2 * idle_ms / profile.half_life_ms))

    def tokens_per_s(self, t_ns: int) -> int:
        """Tokens whose entries lie in (t_ns - 1 s, t_ns]."""
        recent = self.recent_ns
        if recent and recent[0] <= t_ns - NS_PER_S:
            del recent[: bisect_right(recent, t_ns - NS_PER_S)]
        # Nearly always all of them are at or before `t_ns`.
        return len(recent) if not recent or recent[-1] <= t_ns else bisect_right(recent, t_ns)


def _base(tokens_per_s: float, certainty: float | None, dt_ms: float | None, profile: EnergyProfile) -> float:
    """The unsmoothed energy in [0, 1]. The first token has no dt (None): f is 1."""
    velocity = clamp((tokens_per_s - profile.tps_min) / (profile.tps_max - profile.tps_min))
    friction = 1.0
    if dt_ms is not None:
        friction = 1.0 - clamp((dt_ms - profile.stall_ms) / (profile.ceil_ms - profile.stall_ms))
    if certainty is None:
        return 0.7 * velocity + 0.3 * friction
    return 0.5 * velocity + 0.3 * certainty + 0.2 * friction


def confidence_weights(opening: Opening, meters: Sequence[EnergyMeter]) -> list[float]:
    """g_m >= 0: the session's weights, or with `weighting: certainty` those times the members' smoothed certainty."""
    weights = [member.weight for member in opening.members]
    if opening.weighting == "fixed":
        return weights
    certainties = (meter.smoothed_certainty for meter in meters)
    return [g * (_UNKNOWN_CERTAINTY if c is None else c) for g, c in zip(weights, certainties, strict=True)]


def weight_certainty(proposal: Proposal) -> float:
    """What the certainty of one token counts as a weight, in [0, 1]."""
    listed = proposal.probabilities
    terms = plain_sum([p * math.log(p) for p in listed.values() if p])
    certainty = certainty_of(TopList(listed, plain_sum(listed.values()), terms))
    return _UNKNOWN_CERTAINTY if certainty is None else certainty


def energy_shares(weights: Sequence[float]) -> list[float]:
    """g_m / sum(g), which sum to 1; all 0 where the weights sum to 0."""
    return normalised(weights) if plain_sum(weights) > 0.0 else [0.0] * len(weights)


def ensemble_energy(energies: Sequence[float], shares: Sequence[float]) -> float:
    """sum(g_m E_m) / sum(g_m) in [0, 1], where `shares` are g_m / sum(g): scaling all weights changes nothing. 0 where
    the shares are all 0."""
    return clamp(plain_sum(map(mul, shares, energies)))
