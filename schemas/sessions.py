"""A session: its request, and its opening entry, which contains every setting that influences a frame."""

from __future__ import annotations

from typing import Literal

import msgspec

# The version of all entries and orders of a session, which its opening contains. It rises when their fields change. A
# process that reads another version leaves the session to others. 2: what-if and consensus; 3: the mixture, and how
# many tokens a prompt has. Openings and entries of earlier versions decode as those of 3, so their recordings can be
# replayed.
ENTRY_VERSION = 3
REPLAYED_VERSIONS = (1, 2, 3)

# step: text is released as far as the slowest member has come. free: as it arrives. consensus: the members write one
# answer together, and only text on which they have agreed is released.
Sync = Literal["step", "free", "consensus"]
# Whether a member's confidence weight is used as it is, or multiplied by its smoothed certainty.
Weighting = Literal["fixed", "certainty"]
Speaker = Literal["system", "user", "assistant"]
# The states of a session's state machine, which DECIPHER runs.
Phase = Literal["IDLE", "CHARGING", "FLOWING", "STALLING", "SATURATED", "DRAINED"]
MAX_PROMPT_BYTES = 32 * 1024
# The longest answer of a tier fits: 8,192 tokens of eight bytes.
MAX_PREFIX_BYTES = 64 * 1024
MAX_TOKENS_LIMIT = 8_192
MAX_TEMPERATURE = 2.0
# Larger seeds are not accepted by every model server.
MAX_SEED = 2**32 - 1
# max_tokens counts so many bytes of a text that a member was given, or that a council has agreed on, as one token.
BYTES_PER_TOKEN = 4
# More than the turns of any real chat of 32 KiB.
MAX_TURNS = 256
# More than any tier allows. An aggregator's work in each window grows with the square of it.
MAX_MEMBERS = 16
# The most alternatives of a place in a council's mixture: the lists of model servers have as many pieces.
MAX_MIXTURE = 20
# The options that a member may have of its own.
MEMBER_OPTIONS = ("temperature", "seed", "max_tokens")
# Larger numbers are not exact, and no option needs one.
LARGEST_OPTION = 2**53
# The longest limit, a day: it bounds how long keys of a session are kept.
LONGEST_MS = 86_400_000


class EnergyProfile(msgspec.Struct, array_like=True, frozen=True):
    """The constants of a member's energy.

    tps_max: the tokens a second at which the velocity is 1.
    stall_ms: the time between tokens up to which there is no friction, in ms.
    smoothing: the weight of the newest base, in (0, 1].
    tps_min: the tokens a second at which the velocity is 0.
    ceil_ms: the time between tokens from which on the friction is 1, in ms.
    half_life_ms: the time in which the energy of a stalled member halves, in ms.
    """

    tps_max: float
    stall_ms: float
    smoothing: float
    tps_min: float = 0.0
    ceil_ms: float = 1_500.0
    half_life_ms: float = 700.0


class Limits(msgspec.Struct, array_like=True, frozen=True):
    """The longest times of a session, in milliseconds of window time or in beats (one a second).

    first_token_ms: for the first token of a model that is loaded.
    loading_ms: for the first token of a model that is loading.
    silence_ms: between two tokens.
    beats_without_entry: without an entry of a member's producer.
    beats_without_claim: without a claim of a member.
    allowed_lateness_ms: from the writing of an entry to its id, before it is counted as late.
    life_ms: of the session.
    unaligned_tokens: the most unaligned tokens of one member; beyond it they are not compared.
    waiting_ms: for memory, or for a slot.
    frontier_waits_ms: how long the others wait for a member's first text after its model is free.
    claim_waits_ms: how long the others wait, from the opening on, for the claim of a member.
    detach_ms: after so long without text the others no longer wait for a member that holds their text back.
    loading_waits_ms: how long the others wait in step mode for a member whose model loads, from its last `loading`
      mark, or that waits for memory or a slot, from its first `waiting` mark.
    """

    first_token_ms: int = 60_000
    loading_ms: int = 300_000
    silence_ms: int = 30_000
    beats_without_entry: int = 5
    beats_without_claim: int = 5
    allowed_lateness_ms: int = 20
    life_ms: int = 3_600_000
    unaligned_tokens: int = 4_096
    waiting_ms: int = 600_000
    # Without it the first member to write gets ahead, and even a member as fast as it never comes into step and is
    # never compared with it.
    frontier_waits_ms: int = 5_000
    # Producers claim one shortly after another, and the first of them must not get ahead.
    claim_waits_ms: int = 1_000
    detach_ms: int = 1_500
    # Loading makes progress, but the memory or the slot that a member waits for may be in use by the others.
    loading_waits_ms: int = 60_000


class Message(msgspec.Struct, array_like=True, frozen=True):
    """One turn of a chat.

    role: the speaker.
    content: the text.
    """

    role: Speaker
    content: str


class Sampling(msgspec.Struct, array_like=True, frozen=True):
    """The options of a request to a model server.

    max_tokens: the most tokens of an answer, 1 to 8192.
    temperature: 0 or more.
    seed: a whole number; None where the server draws one.
    top_k: how many alternatives the server lists for each token; it does not restrict the sampling.
    """

    max_tokens: int = 512
    temperature: float = 0.7
    seed: int | None = None
    top_k: int = 20


class Member(msgspec.Struct, array_like=True, frozen=True):
    """One member of a session.

    model: the name of its model.
    weight: its confidence weight, finite and 0 or more.
    remote: its server is not on this machine or its network.
    sampling: its own options; None where they are the session's.
    name: its own name; empty where it has the name of its model.
    system: its own system text; None where it is the session's.
    queues: there is no slot or no memory for it beside the members before it, so the others begin without it.
    """

    model: str
    weight: float = 1.0
    remote: bool = False
    sampling: Sampling | None = None
    name: str = ""
    system: str | None = None
    queues: bool = False

    @property
    def display_name(self) -> str:
        """Its name, which no other member of the session has."""
        return self.name or self.model


class Rung(msgspec.Struct, array_like=True, frozen=True):
    """One tier of the ladder, which a session falls down when memory runs out.

    tier: its name.
    max_parallel_models: the most members of a session in it.
    """

    tier: str
    max_parallel_models: int


# The prompt of a replay whose recording has no text.
WITHOUT_TEXT = "(recorded without text)"


class Replay(msgspec.Struct, array_like=True, frozen=True):
    """Marks a session as the replay of a recorded one.

    of: the id of the recorded session.
    recording: the file in the library, for the council's replay process; empty where the process that opened the
      session replays it itself.
    frames: the recorded frames are shown, and no aggregator computes them.
    """

    of: str
    recording: str = ""
    frames: bool = False


class Parent(msgspec.Struct, array_like=True, frozen=True):
    """The session of which this one is a what-if branch.

    session: its id.
    byte: the byte of its answers from which on they were changed.
    word: the text that was put there.
    instead: what stood there in the answer of a member; empty where nothing stood there.
    """

    session: str
    byte: int
    word: str
    instead: str = ""


class Opening(msgspec.Struct, array_like=True, frozen=True, tag="open"):
    """The first entry of a token stream. The core reads no other setting.

    In a replay it is the recorded opening with another `session` and with `replay`.

    version: ENTRY_VERSION.
    session: the session's id.
    prompt: the user's turn to be answered.
    members: one to 16 members; other entries contain their indexes.
    system: the system text; empty for none.
    sampling: the options of the requests to the model servers.
    sync: how text is released: up to the slowest member, as it arrives, or as the members agree on it.
    tier: the tier in which the session begins.
    profile: the constants of the energy.
    limits: the longest times.
    history: the turns before the prompt.
    ladder: the tiers below `tier`, the next lower one first.
    weighting: whether a weight is used as it is, or multiplied by its member's smoothed certainty.
    replay: what is replayed; None in other sessions.
    prefix: the beginning of every answer, which the members continue; empty for none.
    parent: the session of which this one is a what-if branch; None in other sessions.
    mixture: with sync consensus, how many alternatives of the council's mixture frames contain at most; 0: no mixture.
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
    prefix: str = ""
    parent: Parent | None = None
    mixture: int = 0

    @property
    def prefix_bytes(self) -> int:
        """The length of the prefix. Positions in answers count from its first byte."""
        return len(self.prefix.encode())

    @property
    def names(self) -> tuple[str, ...]:
        """The members' display names."""
        return tuple(member.display_name for member in self.members)

    def sampling_of(self, member: int) -> Sampling:
        """The options of requests for this member."""
        return self.members[member].sampling or self.sampling

    def system_of(self, member: int) -> str:
        """The system text of this member: its own, else the session's."""
        own = self.members[member].system
        return self.system if own is None else own


class MemberSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A member in a request or in settings. `name` is empty where the member has the name of its model. An option that
    is None is the session's."""

    model: str
    name: str = ""
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    system: str | None = None

    @property
    def display_name(self) -> str:
        """Its name, which no other member of the session has."""
        return self.name or self.model

    @property
    def options(self) -> dict[str, float]:
        """Its own sampling options, without those that are the session's."""
        own = {name: getattr(self, name) for name in MEMBER_OPTIONS}
        return {name: value for name, value in own.items() if value is not None}


class NamedCouncil(msgspec.Struct, frozen=True, omit_defaults=True):
    """Members under a name, with weights and options, that a request names in place of its members. A value that is
    None is the request's."""

    name: str
    members: tuple[str | MemberSpec, ...]
    weights: dict[str, float] = {}
    options: dict[str, dict[str, float]] = {}
    sync: Sync | None = None
    weighting: Weighting | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None


class SessionRequest(msgspec.Struct, frozen=True):
    """A request for a session, before it is checked against the tier and the served models.

    `models` are the members: each a model's name, the name of a member of the council, or a description
    (schemas/rules/members.py); or the name of one council of the settings. The keys of `weights`, and of `options`
    (temperature, seed and max_tokens), are display names. `allow_remote`: the user allows that the prompt is sent to a
    remote member. `mixture`: with sync consensus, frames contain the council's mixture with up to so many alternatives,
    in 0 to MAX_MIXTURE (0: they do not contain it).
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
    prefix: str = ""
    parent: Parent | None = None
    mixture: int = 0
