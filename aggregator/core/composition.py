"""A frame from what the core knows at a window's end. Numbers in frames are rounded to 1e-9."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aggregator.core.alignment import Alignment
from aggregator.core.member import MemberRecord
from aggregator.numbers.energy import energy_shares, ensemble_energy
from aggregator.numbers.interference import Interference
from schemas.frames import FRAME_VERSION, Frame, Measures, MemberFrame, Mode, TokenFrame, WindowCounts
from schemas.grid import NS_PER_MS, NS_PER_S, window_start_ns
from schemas.sessions import Opening


class WindowEvents(msgspec.Struct):
    """What one window alone saw: the members that are not as they were, the text that goes out of them, tokens by their
    places in the stream's order, counts."""

    members: set[int] = set()
    texts: dict[int, str] = {}
    thoughts: dict[int, str] = {}
    tokens: list[tuple[int, TokenFrame]] = []
    late: int = 0
    duplicates: int = 0
    dead_letters: int = 0

    @property
    def counts(self) -> WindowCounts:
        """How many entries were late, duplicates, or did not decode; nearly always none."""
        if self.late or self.duplicates or self.dead_letters:
            return WindowCounts(self.late, self.duplicates, self.dead_letters)
        return _NO_COUNTS

    def add_thought(self, order: int, shown: TokenFrame, text: str) -> None:
        """A token of a member's thinking, which goes out as it comes."""
        self.thoughts[shown.member] = self.thoughts.get(shown.member, "") + text
        self.tokens.append((order, shown))

    @property
    def shown_tokens(self) -> tuple[TokenFrame, ...]:
        """Those whose last byte goes out, in the stream's order."""
        if len(self.tokens) > 1:
            self.tokens.sort()
        return tuple([shown for _, shown in self.tokens])


_NO_COUNTS, _NOTHING = WindowCounts(), WindowEvents()


class Composition:
    """Composes one session's frames. In most windows most members say nothing: then what was shown is shown again."""

    def __init__(self, opening: Opening, origin_ns: int) -> None:
        self._opening = opening
        self._origin_ns = origin_ns
        self._replay_of = opening.replay.of if opening.replay else ""
        self._stall_ns = opening.profile.stall_ms * NS_PER_MS
        self._shown: list[MemberFrame] = []
        # As they were measured, and as the last frame shows them.
        self._measured = self._shown_measures = Measures()
        self._is_running = True
        # The members whose energies the ensemble's is the mean of, and their shares of it.
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
        happened: WindowEvents | None,
    ) -> Frame:
        """The frame of `window`. `weights` are the confidence weights g_m at its end. Nothing `happened` in a window
        without entries in which nobody dropped."""
        end_ns = window_start_ns(window + 1)
        self._show(members, self._origin_ns + end_ns, happened)
        if happened is not None or not self._counted:
            self._count(members, weights)
        happened = happened or _NOTHING
        shown = self._shown
        energies = [shown[index].energy for index in self._counted]
        energy = round(ensemble_energy(energies, self._shares), 9)
        agreement = interference.shown_agreement(alignment.measures.agreement, alignment.shown.compares)
        # fmt: off
        return Frame(
            FRAME_VERSION, self._opening.session, window, window_start_ns(window), end_ns, mode, not self._is_running,
            cut, energy, tuple(shown), happened.shown_tokens, self._measures_with(alignment.measures, agreement),
            alignment.shown, interference.step(energy, energies, agreement), happened.counts, tier, self._replay_of,
        )
        # fmt: on

    def _measures_with(self, measures: Measures, agreement: float | None) -> Measures:
        """The measures with the agreement that this window shows."""
        if measures is not self._measured or agreement != self._shown_measures.agreement:
            self._measured, self._shown_measures = measures, msgspec.structs.replace(measures, agreement=agreement)
        return self._shown_measures

    def _count(self, members: Sequence[MemberRecord], weights: Sequence[float]) -> None:
        """Whose energies the ensemble's is the mean of: those that run; once nobody does, those that finished."""
        running = [index for index, member in enumerate(members) if member.is_running]
        self._is_running = bool(running)
        self._counted = running or [index for index, member in enumerate(members) if member.state == "finished"]
        self._shares = energy_shares([weights[index] for index in self._counted])

    def _show(self, members: Sequence[MemberRecord], t_ns: int, happened: WindowEvents | None) -> None:
        """Every member as it is now: of one that the window did not hear of, what time alone changes."""
        if not self._shown:
            self._shown = [self._member_frame(index, member, t_ns, _NOTHING) for index, member in enumerate(members)]
        heard = happened.members if happened else ()
        for index, last in enumerate(self._shown):
            if happened and index in heard:
                self._shown[index] = self._member_frame(index, members[index], t_ns, happened)
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

    def _member_frame(self, index: int, member: MemberRecord, t_ns: int, happened: WindowEvents) -> MemberFrame:
        spec, meter = self._opening.members[index], member.meter
        # fmt: off
        return MemberFrame(
            spec.model, member.shown_state, round(meter.at(t_ns, self._opening.profile), 9),
            float(meter.tokens_per_s(t_ns)), _rounded(meter.certainty), member.position, member.buffered_tokens,
            happened.texts.get(index, ""), happened.thoughts.get(index, ""),
            None if member.is_running else member.reason, spec.remote, spec.display_name, member.is_awaited,
        )
        # fmt: on


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 9)
