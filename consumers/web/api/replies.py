"""What the HTTP API answers, as pydantic models: what is sent, and what /api/openapi.json says of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.frames import MemberState
from schemas.models import Residency
from schemas.processes import Role
from schemas.sessions import Phase, Speaker, Sync, Weighting

# Enough to know a session by; 200 whole prompts would be megabytes.
PROMPT_START_LETTERS = 120

Status = Literal["open", "ended"]
ShownPhase = Annotated[Phase | None, Field(description="Of the session's state machine; null before its first event.")]
Count = Annotated[int, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0, description="In bytes.")]
Window = Annotated[int, Field(ge=-1, description="The newest committed window; -1: none yet.")]
Names = Annotated[list[str], Field(description="What each member is called: its model, or a name of its own.")]
ReplayOf = Annotated[str | None, Field(description="Of a replay the recorded session; null: it is none.")]
RecordingName = Annotated[
    str | None,
    Field(description="Its recording in the library: of a replay what is played; null: it was not recorded."),
]
RecordedMs = Annotated[
    int | None, Field(description="Of a replay when the recorded session was opened, in milliseconds of Unix time.")
]
Reason = Annotated[str | None, Field(description="Why it ended, in a sentence; null where nothing was wrong.")]


class Reply(BaseModel):
    """What every answer is: these keys and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorSentence(Reply):
    """`code` is stable, for programs; `message` is one sentence that says what to do."""

    code: str
    message: str


class ErrorReply(Reply):
    """Whatever went wrong."""

    error: ErrorSentence


class Opened(Reply):
    """A session that was opened, its members in their order; `warnings` say who was left out, and why."""

    session: str
    models: Annotated[list[str], Field(description="Each member's model.")]
    names: Names
    warnings: list[str]
    tier: str


class ListedSession(Reply):
    """A session in the list. The whole of what it was asked is told by itself alone."""

    session: str
    prompt_start: Annotated[str, Field(description="The first letters of its prompt.", max_length=PROMPT_START_LETTERS)]
    status: Status
    phase: ShownPhase
    window_index: Window
    models: Annotated[list[str], Field(description="Each member's model.")]
    names: Names
    reason: Reason
    opened_ms: Annotated[int, Field(description="When it was opened, in milliseconds of Unix time.")]
    replay_of: ReplayOf
    recording: RecordingName
    recorded_ms: RecordedMs


class SessionList(Reply):
    """The sessions that are kept, newest first, 200 at the most."""

    sessions: list[ListedSession]


class Turn(Reply):
    """An earlier turn of the chat."""

    role: Speaker
    content: str


class ShownSampling(Reply):
    """What a member's model was asked for."""

    temperature: float
    seed: int | None
    max_tokens: int


class ShownMember(Reply):
    """A member at the end of the window: all that it has said up to then, as the frames have shown it."""

    model: str
    name: Annotated[str, Field(description="What it is called: its model, or a name of its own.")]
    id: Annotated[str, Field(description="Its name in the real-time protocol.", pattern="^[a-zA-Z0-9_-]+$")]
    sampling: ShownSampling
    system: Annotated[str | None, Field(description="A system text of its own; null: the session's.")]
    weight: float
    remote: bool
    state: Annotated[MemberState | None, Field(description="null before the first frame.")]
    reason: Annotated[str | None, Field(description="Why it finished or was dropped.")]
    position_bytes: Annotated[int, Field(ge=0, description="Where its answer ends, in bytes of UTF-8.")]
    text: Annotated[str, Field(description="Its whole answer so far.")]
    thinking: Annotated[str, Field(description="Its whole thinking so far.")]


class ShownSession(Reply):
    """A session at the end of one window: the newest, or the one that was asked for."""

    session: str
    status: Status
    phase: ShownPhase
    reason: Reason
    opened_ms: Annotated[int, Field(description="When it was opened, in milliseconds of Unix time.")]
    replay_of: ReplayOf
    recording: RecordingName
    recorded_ms: RecordedMs
    origin_ns: Annotated[
        str, Field(description="When window 0 began, in nanoseconds of Unix time: digits, too many for a JSON number.")
    ]
    window_index: Annotated[int, Field(ge=-1, description="The window that the members are shown at; -1: none yet.")]
    final: Annotated[bool, Field(description="Whether that is the last one.")]
    tier: Annotated[str, Field(description="The tier that it runs in at that window.")]
    sync: Sync
    weighting: Weighting
    prompt: str
    system: str
    history: list[Turn]
    members: list[ShownMember]


class Cancelled(Reply):
    """The wish to cancel is written; the frames tell when the members have stopped."""

    session: str
    status: Annotated[Status, Field(description="ended: there was nothing left to cancel.")]
    members: Annotated[list[int], Field(description="Whom it concerns.")]


class ShownModel(Reply):
    """A model that is served. Sizes in bytes; what nobody knows is null."""

    model: str
    id: Annotated[str, Field(description="Its name in the real-time protocol.", pattern="^[a-zA-Z0-9_-]+$")]
    server: str
    size_bytes: int | None
    remote: bool
    max_loaded: Count
    slots: Count
    pauses: bool
    residency: Residency
    trouble: str | None
    model_there: str
    held_by: str
    in_use: bool


class OwnMember(Reply):
    """A member that the council has by name. What is null is the session's."""

    name: str
    model: str
    temperature: float | None
    seed: int | None
    max_tokens: int | None
    system: str | None


class ModelList(Reply):
    """The models that are served, in the order of preference, and what the tier allows. `members` are the council's
    own: those that answer where a request names none; empty where those are the models."""

    models: list[ShownModel]
    members: list[OwnMember]
    tier: str
    max_parallel_models: Count
    max_loaded_models: Count
    target_fps: Count


class Ordered(Reply):
    """The order is with the model's producer; GET /api/models tells what became of it."""

    model: str
    residency: Residency
    ordered: Literal["load", "unload"]


class RedisStatus(Reply):
    """Redis as it describes itself; maxmemory_bytes 0: no limit."""

    version: str | None
    used_memory_bytes: Bytes
    maxmemory_bytes: Bytes


class ProcessStatus(BaseModel):
    """A process of the council, and what is its role's own: windows, windows_late (aggregator); frames,
    frames_without_analysis, frames_batched, frames_overrun (decipher); clients, frames_merged, clients_too_slow,
    clients_refused, events_left_out and more (web); model, sessions, residency and more (producer)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, str | int | float | bool]

    name: str
    role: Role
    ready: bool
    pid: int
    host: str
    rss_bytes: Bytes
    cpu_s: float
    up_s: float


class SessionStatus(Reply):
    """How far the readers of an open session are, in windows."""

    session: str
    window_index: Window
    aggregator_lag: Annotated[int, Field(ge=0, description="Windows that are due and not committed.")]
    decipher_lag: Annotated[int, Field(ge=0, description="Windows that are committed and not composed.")]
    epoch: Annotated[int, Field(description="How many aggregators have owned it.")]
    age_s: float
    accepted_tokens: list[int]


class CouncilStatus(Reply):
    """The council's processes, its open sessions, and Redis."""

    redis: RedisStatus
    processes: list[ProcessStatus]
    unreadable_records: Annotated[int, Field(ge=0, description="Process records that this version cannot read.")]
    sessions: list[SessionStatus]


class Healthy(Reply):
    """This process answers."""

    ok: Literal[True] = True


class Ready(Reply):
    """Redis answers, and a session that is opened now is answered and told of."""

    ready: Literal[True] = True


class Versions(Reply):
    """What runs here."""

    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    frame_version: Annotated[int, Field(description="Of the packed frames in Redis.")]
    entry_version: Annotated[int, Field(description="Of the token streams' openings.")]
    python: str
