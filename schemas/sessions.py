"""A session: what a person asks for, and its opening entry, which holds all that can influence a frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from schemas.errors import Refused

ENTRY_VERSION = 1

# step: text goes out as far as the slowest member has come. free: as it comes.
Sync = Literal["step", "free"]
# What a member's confidence weight is multiplied with: nothing, or its smoothed certainty.
Weighting = Literal["fixed", "certainty"]
Speaker = Literal["system", "user", "assistant"]
# A session's state machine, which DECIPHER keeps.
Phase = Literal["IDLE", "CHARGING", "FLOWING", "STALLING", "SATURATED", "DRAINED"]
MAX_PROMPT_BYTES = 32 * 1024
MAX_TOKENS_LIMIT = 8_192
# More turns than a chat of 32 KiB has in earnest.
MAX_TURNS = 256
# More than any tier takes. What an aggregator computes in each window grows with the square of it.
MAX_MEMBERS = 16
# What a member may have of its own.
MEMBER_OPTIONS = ("temperature", "seed", "max_tokens")
# No limit may be longer than a day: what is kept for the longest session is bounded by this.
LONGEST_MS = 86_400_000


class EnergyProfile(msgspec.Struct, array_like=True, frozen=True):
    """The constants of a member's energy. Tokens a second; milliseconds; `smoothing` is the weight of the newest
    base, in (0, 1]."""

    tps_max: float
    stall_ms: float
    smoothing: float
    tps_min: float = 0.0
    ceil_ms: float = 1_500.0
    half_life_ms: float = 700.0


class Limits(msgspec.Struct, array_like=True, frozen=True):
    """When patience ends. Milliseconds of window time, or counts of beats (one a second)."""

    first_token_ms: int = 60_000
    loading_ms: int = 300_000
    silence_ms: int = 30_000
    beats_without_entry: int = 5
    beats_without_claim: int = 5
    allowed_lateness_ms: int = 20
    life_ms: int = 3_600_000
    # Tokens of one member that wait for the others at the frontier; past that the alignment falls back.
    unaligned_tokens: int = 4_096
    # For memory, or for a place in the queue.
    waiting_ms: int = 600_000
    # How long the others wait for a member's first text, from when its model is free: else the first one to write runs
    # ahead, and nobody of its own speed is ever in step or compared with it.
    frontier_waits_ms: int = 5_000
    # The same, from the opening on, for the claim of a member that nobody has claimed: producers claim within moments
    # of each other, and the first of them must not run ahead.
    claim_waits_ms: int = 1_000
    # A member that holds the others' text back, and writes nothing for so long, is waited for no more.
    detach_ms: int = 1_500
    # How long the others wait in step mode for a member whose model loads, from its last sign of loading, or that waits
    # for memory or a slot, from its first sign of waiting: a model that loads gets on by itself, but one that waits may
    # wait for what the others hold.
    loading_waits_ms: int = 60_000


def limits_with(overrides: Mapping[str, int]) -> Limits:
    """The default limits with some of them changed. Raises Refused for an unknown name or a number out of bounds."""
    for name, value in overrides.items():
        if name not in Limits.__struct_fields__:
            raise Refused(
                "unknown_limit", f"There is no limit {name!r}: the limits are {', '.join(Limits.__struct_fields__)}."
            )
        if not isinstance(value, int) or not 1 <= value <= LONGEST_MS:
            raise Refused("bad_limit", f"The limit {name} is {value!r}: give a whole number from 1 to {LONGEST_MS}.")
    return msgspec.structs.replace(Limits(), **overrides)


class Message(msgspec.Struct, array_like=True, frozen=True):
    """One turn of a chat."""

    role: Speaker
    content: str


class Sampling(msgspec.Struct, array_like=True, frozen=True):
    """What a model server is asked for. `top_k` is how many alternatives a token, not a sampling cut."""

    max_tokens: int = 512
    temperature: float = 0.7
    seed: int | None = None
    top_k: int = 20


class Member(msgspec.Struct, array_like=True, frozen=True):
    """One member of a session: its model and its confidence weight (finite, >= 0). `remote`: its server is not on this
    machine or its network. `sampling` and `system` are its own where they differ from the session's. `name` is empty
    where it is called as its model. `queues`: there is no slot or no memory for it beside the members before it, so the
    others do not wait until it begins."""

    model: str
    weight: float = 1.0
    remote: bool = False
    sampling: Sampling | None = None
    name: str = ""
    system: str | None = None
    queues: bool = False

    @property
    def display_name(self) -> str:
        """What it is called; each member of a session has another display name."""
        return self.name or self.model


class Rung(msgspec.Struct, array_like=True, frozen=True):
    """One step of the ladder of tiers that a session falls down when memory runs out."""

    tier: str
    max_parallel_models: int


class Replay(msgspec.Struct, array_like=True, frozen=True):
    """Marks a session as the replay of a recorded one, `of`.

    `recording` is the name of the file in the library, which the council's replay process reads; empty where the
    process that opened the session replays it itself. `frames`: the recorded frames are shown as they are, and no
    aggregator computes them.
    """

    of: str
    recording: str = ""
    frames: bool = False


class Opening(msgspec.Struct, array_like=True, frozen=True, tag="open"):
    """The first entry of a token stream. The core reads no other setting.

    `prompt` is the user's turn that is to be answered, `history` the turns before it; `ladder` are the tiers below
    `tier`, the next lower one first. Of a replay it is the recorded opening with another session and the mark `replay`.
    """

    version: int
    session: str
    prompt: str
    members: tuple[Member, ...]
    system: str = ""
    sampling: Sampling = Sampling()
    sync: Sync = "step"
    tier: str = "mid"
    profile: EnergyProfile = EnergyProfile(tps_max=14.0, stall_ms=400.0, smoothing=0.35)
    limits: Limits = Limits()
    history: tuple[Message, ...] = ()
    ladder: tuple[Rung, ...] = ()
    weighting: Weighting = "fixed"
    replay: Replay | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The members' display names."""
        return tuple(member.display_name for member in self.members)

    def sampling_of(self, member: int) -> Sampling:
        """What the server of this member is asked for."""
        return self.members[member].sampling or self.sampling

    def system_of(self, member: int) -> str:
        """The system text of this member: its own, else the session's."""
        own = self.members[member].system
        return self.system if own is None else own


class MemberSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One member that is asked for. `name` is empty where it is called as its model; an option that is None is the
    session's."""

    model: str
    name: str = ""
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    system: str | None = None

    @property
    def display_name(self) -> str:
        """What it is called, in one session no other member."""
        return self.name or self.model

    @property
    def options(self) -> dict[str, float]:
        """Its own sampling options, less those that are the session's."""
        own = {name: getattr(self, name) for name in MEMBER_OPTIONS}
        return {name: value for name, value in own.items() if value is not None}


class SessionRequest(msgspec.Struct, frozen=True):
    """What a person asks for, before the tier and the models that are served have had their say.

    `models` are the members that are asked for: each a model's name, the name of a member that the council has, or a
    description (schemas/rules/members.py). `weights`, and `options` (temperature, seed and max_tokens), are by the
    member's display name. `allow_remote` is the person's word that the prompt may go to a remote member.
    """

    prompt: str
    models: tuple[str | MemberSpec, ...] = ()
    weights: dict[str, float] = {}
    system: str = ""
    max_tokens: int = 512
    temperature: float = 0.7
    seed: int | None = None
    history: tuple[Message, ...] = ()
    options: dict[str, dict[str, float]] = {}
    allow_remote: bool = False
    weighting: Weighting = "fixed"
    sync: Sync = "step"
