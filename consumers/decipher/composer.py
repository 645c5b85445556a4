"""The composer: frames in, the protocol's events out. Pure: what a frame cannot tell is not said.

    take(frame)      the frame is heard: text, errors, the session's machine, what moves between the members
    tell(frame)      one update of all that was heard since the last one, with the numbers of this frame:

        energy_update | energy_field, interference_event, resonance_event | token_stream … | error_event …
        always          on change, where there is time for it                each member     each trouble

On time every frame is taken and told. Under overload several are taken and told as one; text waits, and is never lost.
Memory is all that a later DECIPHER needs to go on as if it had been there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from consumers.decipher.machine import MachineState, Pulse, SessionMachine
from consumers.decipher.patterns import (
    Advances,
    field_payload,
    has_changed,
    interference_payload,
    participants,
)
from consumers.decipher.pieces import pieces
from consumers.decipher.troubles import overrun, session_failed, troubles
from schemas.events import (
    ENSEMBLE,
    FRAME_BUDGET_MS,
    EnergyField,
    EnergyPayload,
    EnergyUpdate,
    ErrorEvent,
    ErrorPayload,
    Event,
    FieldPayload,
    InterferenceEvent,
    InterferencePayload,
    ResonanceEvent,
    TokenStream,
    TokenStreamPayload,
    protocol_model_ids,
)
from schemas.frames import Frame, MemberFrame
from schemas.grid import NS_PER_MS, window_index_at
from schemas.sessions import Opening

MEMORY_VERSION = 1


class ComposerState(msgspec.Struct, array_like=True):
    """What was said last, and what the machine and the frontier have come to. `complete`: the members of which no more
    comes."""

    version: int
    machine: MachineState
    complete: list[bool]
    tier: str
    energy: float = 0.0
    advances: Advances = msgspec.field(default_factory=Advances)
    field: FieldPayload | None = None
    interference: tuple[str, tuple[str, ...]] | None = None
    resonance: tuple[str, ...] | None = None


class Composer:
    """The events of one session. It begins with `checkpoint`, what dump() gave after the frame before; without one, at
    the session's first frame."""

    def __init__(self, opening: Opening, origin_ns: int, checkpoint: bytes = b"") -> None:
        self._names = protocol_model_ids(opening.names)
        self._origin_ns = origin_ns
        self._memory = _loaded(checkpoint, len(self._names))
        self._machine = SessionMachine(opening.profile.stall_ms, self._memory.machine)
        self._texts: dict[int, list[str]] = {}
        self._completed: set[int] = set()
        self._errors: list[ErrorPayload] = []
        self._tokens = 0

    @property
    def phase(self) -> str:
        """The state of the session's machine."""
        return self._memory.machine.phase

    @property
    def over(self) -> tuple[str, ...]:
        """The types of which nothing stands any more, whatever was said."""
        states = {"interference_event": self._memory.interference, "resonance_event": self._memory.resonance}
        return tuple(kind for kind, said in states.items() if said is None)

    def dump(self) -> bytes:
        """What a later composer begins with. Everything taken has been told."""
        return _encoder.encode(self._memory)

    def take(self, frame: Frame) -> None:
        """Hears the next frame."""
        memory = self._memory
        self._machine.step(frame)
        memory.advances.add(frame)
        self._errors += troubles(frame, self._names, memory.complete, memory.tier)
        memory.tier = frame.tier or memory.tier
        self._tokens += len(frame.tokens)
        for index, member in enumerate(frame.members):
            if member.text:
                own = [token for token in frame.tokens if token.member == index and token.lane == "answer"]
                self._texts.setdefault(index, []).extend(pieces(member, own))
            if _is_complete(member) and not memory.complete[index]:
                memory.complete[index] = True
                self._completed.add(index)

    def tell(self, frame: Frame, elapsed_ms: Callable[[], float], *, with_analysis: bool = True) -> list[Event]:
        """The events of all that was taken since the last time, as those of `frame`, the newest. `elapsed_ms` tells
        what it has taken so far."""
        timestamp = (self._origin_ns + frame.end_ns) // NS_PER_MS
        number = window_index_at(self._origin_ns + frame.start_ns)
        analysis = self._analysis(frame, timestamp, number) if with_analysis else []
        texts = self._token_streams(frame, timestamp)
        elapsed = max(0.0, elapsed_ms())
        if elapsed > FRAME_BUDGET_MS:
            self._errors.append(overrun(elapsed, number))
        errors = [ErrorEvent(timestamp, payload) for payload in self._errors]
        energy = EnergyPayload(
            totalEnergy=frame.energy,
            deltaEnergy=round(frame.energy - self._memory.energy, 9),
            tokensGenerated=self._tokens,
            processingTime=round(min(elapsed, FRAME_BUDGET_MS), 3),
            modelId=ENSEMBLE,
        )
        self._memory.energy = frame.energy
        self._texts, self._completed, self._errors, self._tokens = {}, set(), [], 0
        return [EnergyUpdate(timestamp, number, energy), *analysis, *texts, *errors]

    def fail(self, end_ns: int, reason: str) -> Event:
        """The last word on a session that ended, `end_ns` after its origin, without a final frame."""
        self._machine.end()
        return ErrorEvent((self._origin_ns + end_ns) // NS_PER_MS, session_failed(reason))

    def _analysis(self, frame: Frame, timestamp: int, number: int) -> list[Event]:
        """What has changed between the members since it was last told."""
        memory, events = self._memory, list[Event]()
        field = field_payload(frame)
        if has_changed(memory.field, field):
            memory.field = field
            events.append(EnergyField(timestamp, number, field))
        models = participants(frame, self._names)
        events += self._interference(interference_payload(frame, models), timestamp, number)
        resonance = memory.advances.resonance_payload(frame, models)
        if resonance is not None and resonance.participants != memory.resonance:
            events.append(ResonanceEvent(timestamp, number, resonance))
        memory.resonance = resonance.participants if resonance else None
        return events

    def _interference(self, payload: InterferencePayload | None, timestamp: int, number: int) -> list[Event]:
        said = self._memory.interference
        if payload is None:
            self._memory.interference = None
            return []
        # Nothing happens between whom it happens not.
        now = (payload.patternType, () if payload.patternType == "neutral" else payload.models)
        self._memory.interference = now
        return [] if said == now else [InterferenceEvent(timestamp, number, payload)]

    def _token_streams(self, frame: Frame, timestamp: int) -> list[TokenStream]:
        streams = []
        for index, name in enumerate(self._names):
            if index in self._texts or index in self._completed:
                payload = TokenStreamPayload(
                    tuple(self._texts.get(index, ())), self._memory.complete[index], frame.session, name
                )
                streams.append(TokenStream(timestamp, payload))
        return streams


def _is_complete(member: MemberFrame) -> bool:
    return member.state in ("finished", "dropped")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ComposerState)


def _loaded(checkpoint: bytes, members: int) -> ComposerState:
    """The memory in a checkpoint; an empty one where there is none that this version understands."""
    with contextlib.suppress(msgspec.MsgspecError):
        memory = _decoder.decode(checkpoint)
        if memory.version == MEMORY_VERSION and len(memory.complete) == len(memory.machine.pulses) == members:
            return memory
    return ComposerState(MEMORY_VERSION, MachineState([Pulse() for _ in range(members)]), [False] * members, "")
