"""The responses of the HTTP API as pydantic models; /api/openapi.json is made from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.frames import MemberState
from schemas.models import Continues, Residency
from schemas.processes import Role
from schemas.sessions import Phase, Speaker, Sync, Weighting

# Enough to recognise a session; 200 whole prompts would be megabytes.
PROMPT_START_LETTERS = 120

Status = Literal["open", "ended"]
ShownPhase = Annotated[Phase | None, Field(description="The session's phase; null before its first event.")]
Count = Annotated[int, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0, description="In bytes.")]
Window = Annotated[int, Field(ge=-1, description="The newest committed window; -1 if there is none.")]
Names = Annotated[list[str], Field(description="Each member's display name: its own name, or else its model's.")]
ReplayOf = Annotated[str | None, Field(description="The recorded session, if this is a replay; otherwise null.")]
RecordingName = Annotated[
    str | None,
    Field(
        description="The name of its recording in the library (of a replay: of the recording that is played); null if "
        "there is none."
    ),
]
RecordedMs = Annotated[
    int | None, Field(description="Of a replay, when the recorded session was opened, in milliseconds of Unix time.")
]
Reason = Annotated[str | None, Field(description="Why the session ended, in one sentence; null without an error.")]


class Reply(BaseModel):
    """A response: these keys and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorSentence(Reply):
    """`code` is stable, for programs; `message` is one sentence: what is wrong, and what to do."""

    code: str
    message: str


class ErrorReply(Reply):
    """An error."""

    error: ErrorSentence


class Opened(Reply):
    """A session that was opened; `warnings` name the members that were left out, and the reasons."""

    session: str
    models: Annotated[list[str], Field(description="Each member's model.")]
    names: Names
    warnings: list[str]
    tier: str


class ListedSession(Reply):
    """A session in the list. GET /api/sessions/{session} returns the whole prompt."""

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
    """The sessions that Redis still has, newest first, at most 200."""

    sessions: list[ListedSession]


class Turn(Reply):
    """An earlier message of the chat."""

    role: Speaker
    content: str


class ShownSampling(Reply):
    """The options of a member's generation."""

    temperature: float
    seed: int | None
    max_tokens: int


class ShownMember(Reply):
    """A member at the end of the window, with its whole text up to then, as the frames released it."""

    model: str
    name: Annotated[str, Field(description="Its display name: its own name, or else its model's.")]
    id: Annotated[str, Field(description="Its name in the real-time protocol.", pattern="^[a-zA-Z0-9_-]+$")]
    sampling: ShownSampling
    system: Annotated[str | None, Field(description="Its own system text; null if it has the session's.")]
    weight: float
    remote: bool
    state: Annotated[MemberState | None, Field(description="Its state; null before the first frame.")]
    reason: Annotated[str | None, Field(description="Why it finished or was dropped; otherwise null.")]
    position_bytes: Annotated[int, Field(ge=0, description="The end of its answer, in bytes of UTF-8.")]
    text: Annotated[str, Field(description="Its whole answer so far.")]
    thinking: Annotated[str, Field(description="Its whole thinking so far.")]


class ShownParent(Reply):
    """The session of which a what-if branch was made: at `byte` of its answers, `word` was put in the place of
    `instead`, which is empty where the answer ended."""

    session: str
    byte: Annotated[int, Field(ge=0)]
    word: str
    instead: str


class ShownSession(Reply):
    """A session at the end of one window: the newest, or that of window_index."""

    session: str
    status: Status
    phase: ShownPhase
    reason: Reason
    opened_ms: Annotated[int, Field(description="When it was opened, in milliseconds of Unix time.")]
    replay_of: ReplayOf
    recording: RecordingName
    recorded_ms: RecordedMs
    origin_ns: Annotated[
        str, Field(description="The start of window 0, in nanoseconds of Unix time, as a string of digits.")
    ]
    window_index: Annotated[int, Field(ge=-1, description="The window of this state; -1 before the first frame.")]
    final: Annotated[bool, Field(description="True if this is the last window.")]
    tier: Annotated[str, Field(description="Its tier at that window.")]
    sync: Sync
    weighting: Weighting
    prompt: str
    system: str
    history: list[Turn]
    prefix: Annotated[str, Field(description="The beginning of every answer, which the members continue; else empty.")]
    parent: Annotated[ShownParent | None, Field(description="Of a what-if branch; otherwise null.")]
    branches: Annotated[list[str], Field(description="The what-if branches of this session, the oldest first.")]
    agreed: Annotated[
        str | None, Field(description="The text of a council that writes one answer; null unless sync is consensus.")
    ]
    members: list[ShownMember]


class Cancelled(Reply):
    """The order to cancel was written; the frames show when the members have stopped."""

    session: str
    status: Annotated[Status, Field(description="ended: the session had ended before.")]
    members: Annotated[list[int], Field(description="The indexes of the members to stop.")]


class LastFailure(Reply):
    """The last answer of a model that failed."""

    reason: Annotated[str, Field(description="A sentence with the server's address and its answer's first line.")]
    failed_ms: Annotated[int, Field(description="When, as Unix time in milliseconds.")]


class ShownModel(Reply):
    """A model that is served. Unknown values are null."""

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
    continues: Annotated[
        Continues, Field(description="Whether it continues an answer that a request begins, as far as it is known.")
    ]
    last_failure: LastFailure | None


class OwnMember(Reply):
    """A member from the council's settings. A null option has the session's value."""

    name: str
    model: str
    temperature: float | None
    seed: int | None
    max_tokens: int | None
    system: str | None


class ShownCouncil(Reply):
    """A council from the settings, which a request names in place of its members: the members by name, and their
    weights where they are not 1."""

    name: str
    members: list[str]
    weights: dict[str, float]


class ModelList(Reply):
    """The models that are served, in order of preference, and the limits of the tier. `members` are the members of the
    council's settings, which answer a request without `models`; without such members the models answer it. A request
    may also name one of the `councils`."""

    models: list[ShownModel]
    members: list[OwnMember]
    councils: list[ShownCouncil]
    tier: str
    max_parallel_models: Count
    max_loaded_models: Count
    target_fps: Count


class LoadOrder(Reply):
    """The order was sent to the model's producer; GET /api/models shows the result."""

    model: str
    residency: Residency
    ordered: Literal["load", "unload"]


class RedisStatus(Reply):
    """What Redis reports about itself; maxmemory_bytes is 0 without a limit."""

    version: str | None
    used_memory_bytes: Bytes
    maxmemory_bytes: Bytes


class ProcessStatus(BaseModel):
    """A process of the council, with the fields of its role: windows, windows_late (aggregator); frames,
    frames_without_analysis, frames_batched, frames_overrun (decipher); clients, frames_merged, clients_too_slow,
    clients_refused, events_left_out, refused_origins, refused_hosts and more (web); model, sessions, residency and more
    (producer)."""

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
    """How far an open session is processed, in windows."""

    session: str
    window_index: Window
    aggregator_lag: Annotated[int, Field(ge=0, description="Windows that are due and not yet committed.")]
    decipher_lag: Annotated[int, Field(ge=0, description="Windows that are committed, with events not yet composed.")]
    epoch: Annotated[int, Field(description="How many owners it has had so far.")]
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

    ok: Literal[True]


class Readiness(Reply):
    """A session that is opened now is answered, and its events are composed."""

    ready: Literal[True]


class Versions(Reply):
    """The versions of this council."""

    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    frame_version: Annotated[int, Field(description="The version of the frames in Redis.")]
    entry_version: Annotated[int, Field(description="The version of the token streams.")]
    python: str
