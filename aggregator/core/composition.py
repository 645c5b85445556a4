"""A frame from the core's state at a window's end. Numbers in frames are rounded to 1e-9."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aggregator.core.alignment import Alignment
from aggregator.core.member import MemberRecord
from aggregator.numbers.energy import energy_shares, ensemble_energy
from aggregator.numbers.interference import Interference
from schemas.frames import (
    FRAME_VERSION,
    ConsensusFrame,
    Decision,
    Frame,
    Measures,
    MemberFrame,
    MixtureSpan,
    Mode,
    TokenFrame,
    WindowCounts,
)
from schemas.grid import NS_PER_MS, NS_PER_S, window_start_ns
from schemas.sessions import Opening


class WindowEvents(msgspec.Struct):
    """What happens in one window: the members that change, their released texts and thoughts, the released tokens with
    their orders, and counts."""

    members: set[int] = set()
    texts: dict[int, str] = {}
    thoughts: dict[int, str] = {}
    tokens: list[tuple[int, TokenFrame]] = []
    late: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    superseded: int = 0
    agreed: bytes = b""
    decisions: tuple[Decision, ...] = ()
    mixture: tuple[MixtureSpan, ...] = ()

    @property
    def counts(self) -> WindowCounts:
        """How many entries were late, duplicates, did not decode, or were discarded; nearly always none."""
        if self.late or self.duplicates or self.dead_letters or self.superseded:
            return WindowCounts(self.late, self.duplicates, self.dead_letters, self.superseded)
        return _NO_COUNTS

    def add_thought(self, order: int, shown: TokenFrame, text: str) -> None:
        """A token of a member's thinking, which is released as it arrives."""
        self.thoughts[shown.member] = self.thoughts.get(shown.member, "") + text
        self.tokens.append((order, shown))

    @property
    def shown_tokens(self) -> tuple[TokenFrame, ...]:
        """The tokens whose last byte is released, in the stream's order."""
        if len(self.tokens) > 1:
            self.tokens.sort()
        return tuple([shown for _, shown in self.tokens])


_NO_COUNTS, _NOTHING = WindowCounts(), WindowEvents()
_NO_CONSENSUS = ConsensusFrame()


class Composition:
    """Composes one session's frames. In most windows most members do not change: their last MemberFrame is used
    again."""

    def __init__(self, opening: Opening, origin_ns: int) -> None:
        self._opening = opening
        self._origin_ns = origin_ns
        self._in_consensus = opening.sync == "consensus"
        self._nothing_agreed = ConsensusFrame("", (), () if opening.mixture else None)
        self._replay_of = opening.replay.of if opening.replay else ""
        self._stall_ns = opening.profile.stall_ms * NS_PER_MS
        self._shown: list[MemberFrame] = []
        # As they were measured, and as the last frame shows them.
        self._measured = self._shown_measures = Measures()
        self._ended = False
        # The members whose energies the ensemble's energy is the mean of, and their shares of it.
        self._counted: list[int] = []
        self._shares: list[float] = []

    def frame(
        self,
        window: int,
        cut: str,
        mode: Mode,
        tier: str,
        members: Sequence[MemberRecord],
        weights: Sequence[float],
        alignment: Alignment,
        interference: Interference,
        events: WindowEvents | None,
    ) -> Frame:
        """The frame of `window`. `weights` are the confidence weights g_m at its end. `events` is None for a window
        without entries in which no member dropped."""
        end_ns = window_start_ns(window + 1)
        self._show(members, self._origin_ns + end_ns, events)
        if events is not None or not self._counted:
            self._count(members, weights)
        events = events or _NOTHING
        shown = self._shown
        energies = [shown[index].energy for index in self._counted]
        energy = round(ensemble_energy(energies, self._shares), 9)
        agreement = interference.shown_agreement(alignment.measures.agreement, alignment.shown.compares)
        # fmt: off
        return Frame(
            FRAME_VERSION, self._opening.session, window, window_start_ns(window), end_ns, mode, self._ended,
            cut, energy, tuple(shown), events.shown_tokens, self._measures_with(alignment.measures, agreement),
            alignment.shown, interference.step(energy, energies, agreement), events.counts, tier, self._replay_of,
            self._agreed(events),
        )
        # fmt: on

    def _agreed(self, events: WindowEvents) -> ConsensusFrame:
        if not self._in_consensus:
            return _NO_CONSENSUS
        if not events.agreed and not events.decisions:
            return self._nothing_agreed
        mixture = events.mixture if self._opening.mixture else None
        return ConsensusFrame(events.agreed.decode(), events.decisions, mixture)

    def _measures_with(self, measures: Measures, agreement: float | None) -> Measures:
        """The measures with the agreement that this window shows."""
        if measures is not self._measured or agreement != self._shown_measures.agreement:
            self._measured, self._shown_measures = measures, msgspec.structs.replace(measures, agreement=agreement)
        return self._shown_measures

    def _count(self, members: Sequence[MemberRecord], weights: Sequence[float]) -> None:
        """Sets which members count for the ensemble's energy: the running ones; once none runs, those that
        finished."""
        running = [index for index, member in enumerate(members) if not member.ended]
        self._ended = not running
        self._counted = running or [index for index, member in enumerate(members) if member.state == "finished"]
        self._shares = energy_shares([weights[index] for index in self._counted])

    def _show(self, members: Sequence[MemberRecord], t_ns: int, events: WindowEvents | None) -> None:
        """Updates every member's MemberFrame: where no event concerns the member, what time alone changes."""
        if not self._shown:
            self._shown = [self._member_frame(index, member, t_ns, _NOTHING) for index, member in enumerate(members)]
        changed = events.members if events else ()
        for index, last in enumerate(self._shown):
            if events and index in changed:
                self._shown[index] = self._member_frame(index, members[index], t_ns, events)
                continue
            meter = members[index].meter
            # The conditions are those of EnergyMeter.at and tokens_per_s, without the calls.
            is_fading = last.energy and t_ns - meter.last_token_ns > self._stall_ns
            is_slowing = last.tokens_per_s and meter.recent_ns[0] <= t_ns - NS_PER_S
            if is_fading or is_slowing or last.text or last.thinking:
                energy = round(meter.at(t_ns, self._opening.profile), 9) if is_fading else last.energy
                tokens_per_s = float(meter.tokens_per_s(t_ns)) if is_slowing else last.tokens_per_s
                # fmt: off
                self._shown[index] = MemberFrame(
                    last.model, last.state, energy, tokens_per_s, last.certainty, last.position_bytes,
                    last.buffered_tokens, "", "", last.reason, last.remote, last.name, last.awaited,
                )
                # fmt: on

    def _member_frame(self, index: int, member: MemberRecord, t_ns: int, events: WindowEvents) -> MemberFrame:
        spec, meter = self._opening.members[index], member.meter
        # fmt: off
        return MemberFrame(
            spec.model, member.shown_state, round(meter.at(t_ns, self._opening.profile), 9),
            float(meter.tokens_per_s(t_ns)), _rounded(meter.certainty), member.position, member.buffered_tokens,
            events.texts.get(index, ""), events.thoughts.get(index, ""),
            member.reason if member.ended else None, spec.remote, spec.display_name, member.is_awaited,
        )
        # fmt: on


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 9)
