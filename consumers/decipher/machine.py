"""The session's state machine, computed from its frames. Pure.

    IDLE ──prompt──▶ CHARGING ──first token──▶ FLOWING ◀──E < 0.7───── SATURATED
      ▲                 │                       ▲   │──E >= 0.85 for 800 ms──▶
      └──never a token──┘                       │   ▼
                                   dt <= stall_ms  dt > stall_ms twice in a row,
                                                │  or silence > 2 stall_ms
                                              STALLING           each of the three ──end──▶ DRAINED

E is the ensemble's energy. dt is the shortest time between tokens of the running members that have begun, in window
time: the ensemble stalls when each of them does. Tokens of a member arrived in a window when the window released them,
or when more are buffered than before. Time in which a member is held does not count. Source: the design card, session
state machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.frames import Frame, MemberFrame
from schemas.grid import NS_PER_MS
from schemas.sessions import Phase

SATURATED_FROM = 0.85
SATURATED_UNTIL = 0.7
# 800 ms.
SATURATED_WINDOWS = 48
_SLOW_IN_A_ROW = 2


class Pulse(msgspec.Struct, array_like=True):
    """One member's rhythm: the time since its last token, without the time in which it was held; how many of its last
    dts in a row were too long; and how many of its tokens were buffered at the end of the window."""

    has_begun: bool = False
    silence_ns: int = 0
    slow_in_a_row: int = 0
    buffered: int = 0


class MachineState(msgspec.Struct, array_like=True):
    """What a checkpoint contains of the machine."""

    pulses: list[Pulse]
    phase: Phase = "IDLE"
    saturated_windows: int = 0


class SessionMachine:
    """The machine of one session, which continues from `state`."""

    def __init__(self, stall_ms: float, state: MachineState) -> None:
        self._stall_ns = stall_ms * NS_PER_MS
        self.state = state

    def step(self, frame: Frame) -> Phase:
        """Takes the next frame in; returns the phase at its end."""
        state = self.state
        has_resumed = self._add_tokens(frame)
        state.saturated_windows = state.saturated_windows + 1 if frame.energy >= SATURATED_FROM else 0
        state.phase = self._next_phase(frame, has_resumed)
        return state.phase

    def end(self) -> Phase:
        """The session is over."""
        self.state.phase = "DRAINED" if self._has_begun else "IDLE"
        return self.state.phase

    @property
    def _has_begun(self) -> bool:
        return any(pulse.has_begun for pulse in self.state.pulses)

    def _add_tokens(self, frame: Frame) -> bool:
        """Takes the members' tokens in; True where one came soon enough after the one before it."""
        released = [0] * len(frame.members)
        for token in frame.tokens:
            released[token.member] += 1
        length_ns = frame.end_ns - frame.start_ns
        has_resumed = False
        for pulse, member, count in zip(self.state.pulses, frame.members, released, strict=True):
            arrived = count + member.buffered_tokens - pulse.buffered
            pulse.buffered = member.buffered_tokens
            if member.state != "held":
                pulse.silence_ns += length_ns
            if arrived > 0:
                # Of several tokens in one window the last came right after the others.
                is_soon = arrived > 1 or (pulse.has_begun and pulse.silence_ns <= self._stall_ns)
                has_resumed |= is_soon
                pulse.slow_in_a_row = 0 if is_soon or not pulse.has_begun else pulse.slow_in_a_row + 1
                pulse.has_begun, pulse.silence_ns = True, 0
        return has_resumed

    def _next_phase(self, frame: Frame, has_resumed: bool) -> Phase:
        phase = self.state.phase
        if frame.final:
            return self.end()
        match phase:
            case "IDLE":
                return "CHARGING"
            case "CHARGING" if self._has_begun:
                return "FLOWING"
            case "FLOWING" if self.state.saturated_windows >= SATURATED_WINDOWS:
                return "SATURATED"
            case "FLOWING" if self._is_stalled(frame.members):
                return "STALLING"
            case "STALLING" if has_resumed:
                return "FLOWING"
            case "SATURATED" if frame.energy < SATURATED_UNTIL:
                return "FLOWING"
        return phase

    def _is_stalled(self, members: Sequence[MemberFrame]) -> bool:
        """True where every running member that has begun is slow; once all of these have ended, all that have begun
        count."""
        begun = [(pulse, member) for pulse, member in zip(self.state.pulses, members, strict=True) if pulse.has_begun]
        running = [pulse for pulse, member in begun if not member.ended]
        return all(self._is_slow(pulse) for pulse in running or [pulse for pulse, _ in begun])

    def _is_slow(self, pulse: Pulse) -> bool:
        return pulse.slow_in_a_row >= _SLOW_IN_A_ROW or pulse.silence_ns > 2 * self._stall_ns
