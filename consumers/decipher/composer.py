"""The composer: frames in, the protocol's events out. Pure: it sends nothing that a frame does not contain.

    add(frame)      takes the frame in: text, errors, the session's state machine, changes between the members
    compose(frame)  the events of all frames added since the last call, with the numbers of this frame, the newest:

        energy_update | energy_field, interference_event, resonance_event | token_stream … | error_event …
        always          on change, where there is time for it                each member     each trouble

    close(window)   the last events of the session: energies of 0, in a field in which nothing resonates or interferes

The end of a resonance, or of an interference, is the next energy_field of another type. It is sent in each case: also
where there is no time for analysis.

A council that writes one answer has one text: it is in the token_stream of `ensemble`, and those of its members have no
text, only their ends.

While DECIPHER keeps up, every frame is added and composed. Under overload several frames are added and composed as one;
their text is kept, and never lost. A checkpoint contains all that the next DECIPHER needs to continue.
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
    last_field,
    participants,
)
from consumers.decipher.pieces import pieces
from consumers.decipher.troubles import overrun, troubles
from schemas.entries import version_in
from schemas.errors import OtherVersion
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
from schemas.frames import Frame
from schemas.grid import NS_PER_MS, window_index_at, window_start_ns
from schemas.sessions import Opening

STATE_VERSION = 2


class ComposerState(msgspec.Struct, array_like=True):
    """What was sent last, and the state of the machine and of the frontier. `complete`: the members that have ended.
    `field` is None before the first frame; `interference`, and `resonance` with its participants, where they stand."""

    version: int
    machine: MachineState
    complete: list[bool]
    tier: str
    energy: float = 0.0
    advances: Advances = msgspec.field(default_factory=Advances)
    field: FieldPayload | None = None
    interference: InterferencePayload | None = None
    resonance: tuple[str, ...] | None = None


class Composer:
    """The events of one session, from `checkpoint` on, which dump() returned after an earlier frame; without one, from
    the session's first frame on."""

    def __init__(self, opening: Opening, origin_ns: int, checkpoint: bytes = b"") -> None:
        self._names = protocol_model_ids(opening.names)
        self._origin_ns = origin_ns
        self._state = _loaded(checkpoint, len(self._names))
        self._machine = SessionMachine(opening.profile.stall_ms, self._state.machine)
        self._texts: dict[int, list[str]] = {}
        # What was agreed on; None in a session whose members write answers of their own.
        self._agreed: list[str] | None = None
        self._completed: set[int] = set()
        self._errors: list[ErrorPayload] = []
        self._tokens = 0

    @property
    def phase(self) -> str:
        """The state of the session's machine."""
        return self._state.machine.phase

    @property
    def over(self) -> tuple[str, ...]:
        """The types of which the last event is no longer valid."""
        values = {"interference_event": self._state.interference, "resonance_event": self._state.resonance}
        return tuple(kind for kind, value in values.items() if value is None)

    def dump(self) -> bytes:
        """A checkpoint. Every frame that was added must have been composed."""
        return _encoder.encode(self._state)

    def add(self, frame: Frame) -> None:
        """Takes the next frame in."""
        state = self._state
        self._machine.step(frame)
        state.advances.add(frame)
        self._errors += troubles(frame, self._names, state.complete, state.tier)
        state.tier = frame.tier or state.tier
        self._tokens += len(frame.tokens)
        for index, member in enumerate(frame.members):
            if member.text and frame.consensus.agreed is None:
                own = [token for token in frame.tokens if token.member == index and token.lane == "answer"]
                self._texts.setdefault(index, []).extend(pieces(member, own))
            if member.ended and not state.complete[index]:
                state.complete[index] = True
                self._completed.add(index)
        if frame.consensus.agreed is not None:
            self._agreed = [*(self._agreed or ()), *filter(None, [frame.consensus.agreed])]

    def compose(self, frame: Frame, elapsed_ms: Callable[[], float], *, with_analysis: bool = True) -> list[Event]:
        """The events of all frames added since the last call, as the events of `frame`, the newest. `elapsed_ms`
        returns how long composing has taken so far."""
        timestamp = (self._origin_ns + frame.end_ns) // NS_PER_MS
        number = window_index_at(self._origin_ns + frame.start_ns)
        analysis = self._analysis(frame, timestamp, number, is_full=with_analysis)
        texts = self._token_streams(frame, timestamp)
        elapsed = max(0.0, elapsed_ms())
        if elapsed > FRAME_BUDGET_MS:
            self._errors.append(overrun(elapsed, number))
        errors = [ErrorEvent(timestamp, payload) for payload in self._errors]
        energy = EnergyPayload(
            totalEnergy=frame.energy,
            deltaEnergy=round(frame.energy - self._state.energy, 9),
            tokensGenerated=self._tokens,
            processingTime=round(min(elapsed, FRAME_BUDGET_MS), 3),
            modelId=ENSEMBLE,
        )
        self._state.energy = frame.energy
        self._texts, self._completed, self._errors, self._tokens, self._agreed = {}, set(), [], 0, None
        return [EnergyUpdate(timestamp, number, energy), *analysis, *texts, *errors]

    def close(self, window: int, error: ErrorPayload | None = None) -> list[Event]:
        """The last events of the session, as those of `window`, which follows its last frame: no member runs any more,
        and the energies have decayed. `error` is why the events end without a final frame. It is the only event of a
        session that has no frame before it."""
        self._machine.end()
        state = self._state
        timestamp = (self._origin_ns + window_start_ns(window + 1)) // NS_PER_MS
        errors = [ErrorEvent(timestamp, error)] if error else []
        if window == 0:
            return [*errors]
        number = window_index_at(self._origin_ns + window_start_ns(window))
        energy = EnergyPayload(0.0, 0.0 - state.energy, 0, 0.0, ENSEMBLE)
        state.energy, state.field = 0.0, last_field(len(self._names))
        state.interference = state.resonance = None
        return [EnergyUpdate(timestamp, number, energy), EnergyField(timestamp, number, state.field), *errors]

    def _analysis(self, frame: Frame, timestamp: int, number: int, *, is_full: bool) -> list[Event]:
        """What has changed between the members since it was last sent. Unless `is_full`, only the ends of what stood,
        and a session's first field, which ends that of the session that a client has watched before."""
        state, events = self._state, list[Event]()
        models = participants(frame, self._names)
        interference = interference_payload(frame, models, state.interference)
        resonance = state.advances.resonance_payload(frame, models)
        if is_full:
            if interference is not None and interference is not state.interference:
                events.append(InterferenceEvent(timestamp, number, interference))
            if resonance is not None and resonance.participants != state.resonance:
                events.append(ResonanceEvent(timestamp, number, resonance))
            state.interference, state.resonance = interference, resonance.participants if resonance else None
        else:
            state.interference = _kept(state.interference, interference)
            state.resonance = state.resonance if resonance else None
        field = field_payload(frame, state.interference, resonates=state.resonance is not None)
        before = state.field
        if before is None or (has_changed(before, field) if is_full else _has_ended(before, field)):
            state.field = field
            events.insert(0, EnergyField(timestamp, number, field))
        return events

    def _token_streams(self, frame: Frame, timestamp: int) -> list[TokenStream]:
        streams = []
        if self._agreed or (self._agreed is not None and frame.final):
            payload = TokenStreamPayload(tuple(self._agreed), frame.final, frame.session, ENSEMBLE)
            streams.append(TokenStream(timestamp, payload))
        for index, name in enumerate(self._names):
            if index in self._texts or index in self._completed:
                payload = TokenStreamPayload(
                    tuple(self._texts.get(index, ())), self._state.complete[index], frame.session, name
                )
                streams.append(TokenStream(timestamp, payload))
        return streams


def _kept(before: InterferencePayload | None, now: InterferencePayload | None) -> InterferencePayload | None:
    """`before`, where its pattern still holds."""
    return before if before is not None and now is not None and before.patternType == now.patternType else None


def _has_ended(before: FieldPayload, now: FieldPayload) -> bool:
    """True where a resonance or an interference stood, and no longer does."""
    return before.fieldType in ("resonance", "interference") and before.fieldType != now.fieldType


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ComposerState)


def _loaded(checkpoint: bytes, members: int) -> ComposerState:
    """The state in a checkpoint; a new one where these bytes are not a checkpoint, or one of an earlier version. Raises
    OtherVersion for a later version, which another DECIPHER can read."""
    if (version := version_in(checkpoint, 0) or 0) > STATE_VERSION:
        raise OtherVersion("DECIPHER's checkpoint of a session", version, STATE_VERSION)
    with contextlib.suppress(msgspec.MsgspecError):
        state = _decoder.decode(checkpoint)
        if state.version == STATE_VERSION and len(state.complete) == len(state.machine.pulses) == members:
            return state
    return ComposerState(STATE_VERSION, MachineState([Pulse() for _ in range(members)]), [False] * members, "")
