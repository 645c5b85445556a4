"""The responses of the HTTP API about recordings and replays, as pydantic models.

A recording may come from another machine, so its numbers have no bounds here; its texts and lists are cut to the sizes
that a council writes.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from consumers.web.api.replies import PROMPT_START_LETTERS, Bytes, Names, Reply
from recordings.contents import About, RecordedMember, RecordingSummary
from recordings.folder import KeptRecording
from schemas.grid import FRAME_RATE_HZ
from schemas.sessions import MAX_PREFIX_BYTES, MAX_PROMPT_BYTES

# More members than a council has, and more letters than a name needs.
_MOST_MEMBERS, _MOST_NAME_LETTERS = 64, 200
_MOST_POINTS = 256
_MOST_GAPS = 1_000

Agreement = Annotated[
    list[float | None],
    Field(description="The mean agreement over equal parts of the session, at most 64; null if not measured."),
]


class ListedRecording(Reply):
    """A recording in the list. If it cannot be read, `problem` is the reason, and other fields are null or empty."""

    name: Annotated[str, Field(description="The file's name in the library.")]
    session: Annotated[str | None, Field(description="The recorded session.")]
    prompt_start: Annotated[str, Field(description="The first letters of its prompt.", max_length=PROMPT_START_LETTERS)]
    members: Names
    opened_ms: Annotated[int | None, Field(description="When the session was opened, in milliseconds of Unix time.")]
    modified_ms: Annotated[int, Field(description="When the file was last written, in milliseconds of Unix time.")]
    duration_s: Annotated[float | None, Field(description="From its first frame to its last one, in seconds.")]
    windows: Annotated[int | None, Field(description="The number of frames in the file.")]
    size_bytes: Bytes
    starred: Annotated[bool, Field(description="True if it is never deleted to make room.")]
    mean_agreement: float | None
    agreement: Agreement
    diverged_at_bytes: Annotated[int | None, Field(description="The byte of an answer at which the members parted.")]
    reason: Annotated[str | None, Field(description="Why the session ended, in one sentence; null without an error.")]
    text: Annotated[bool | None, Field(description="False if it was recorded without text.")]
    tokens: Annotated[list[int], Field(description="Each member's number of tokens.")]
    tier: str | None
    problem: Annotated[str | None, Field(description="Why the file cannot be read, in one sentence; otherwise null.")]


class RecordingList(Reply):
    """Recordings, the newest file first; `next` is the `after` of the next page, null on the last page."""

    recordings: list[ListedRecording]
    next: str | None


class RecordedOptions(Reply):
    """A member's options; a null option has the session's value."""

    model: str
    name: str
    weight: float
    remote: bool
    temperature: float | None
    seed: int | None
    max_tokens: int | None


class RecordedSession(Reply):
    """The request, and the versions of the council that recorded it."""

    prompt: str
    system: str
    prefix: Annotated[str, Field(description="The beginning of every answer, which the members continued.")]
    parent: Annotated[str | None, Field(description="The session of which this is a what-if branch.")]
    members: list[RecordedOptions]
    temperature: float
    max_tokens: int
    seed: int | None
    sync: str
    weighting: str
    origin_ns: Annotated[str, Field(description="The start of window 0, in nanoseconds of Unix time, as digits.")]
    recording_version: int
    entry_version: int
    frame_version: int
    council_version: str
    python: str
    platform: str
    gaps: Annotated[list[tuple[int, int]], Field(description="The first and last window of each gap.")]


class RecordedOutcome(Reply):
    """The result of the session, as the file contains it."""

    first_window: int
    last_window: int
    final: Annotated[bool, Field(description="True if the last frame ends the session.")]
    entries: int
    events: int
    states: Annotated[list[str], Field(description="Each member's state at the end.")]
    diverged_window: int | None
    late: int
    duplicates: int
    dead_letters: int
    superseded: Annotated[int, Field(description="Tokens that were discarded for a text that the council agreed on.")]
    partings: Annotated[
        int | None, Field(description="How often the drafts of one answer parted; null unless sync is consensus.")
    ]


class ShownRecording(ListedRecording):
    """One recording; `recorded` and `outcome` are null if it cannot be read."""

    recorded: RecordedSession | None
    outcome: RecordedOutcome | None


class ShownDifference(Reply):
    """The first difference: a field of a window's frame, or of the request if `window` is null. Both values are JSON,
    null if one is missing."""

    window: int | None
    field: str
    one: str | None
    other: str | None


class RecordingDifference(Reply):
    """Two recordings compared, first the requests, then frame by frame; `difference` is null if both are equal."""

    name: str
    other: str
    difference: ShownDifference | None


class OpenedReplay(Reply):
    """A replay that was opened, as a session of its own."""

    session: str
    replay_of: Annotated[str, Field(description="The recorded session.")]
    recording: str


class Keeping(Reply):
    """A session that is recorded, or will be, and the name of its recording."""

    session: str
    recording: str
    recorded: Annotated[bool, Field(description="True if the file exists already.")]


class ShownPlayback(Reply):
    """The position of a replay. All pages show `window` (-1 before the first); `rate` is 1 at the recorded speed, 0 as
    fast as the council computes."""

    session: str
    window: int
    last_window: Annotated[int, Field(description="The last window of the recording.")]
    rate: float
    paused: bool
    is_over: Annotated[bool, Field(description="True if the last window is shown.")]
    has_player: Annotated[bool, Field(description="True if a process plays it and follows orders.")]


def listed_recording(kept: KeptRecording) -> ListedRecording:
    """The recording as an item of the list."""
    return ListedRecording(**_listed(kept))


def shown_recording(kept: KeptRecording) -> ShownRecording:
    """The recording with all its details."""
    about, summary = kept.about, kept.summary
    return ShownRecording(
        **_listed(kept),
        recorded=_recorded(about) if about else None,
        outcome=_outcome(summary) if summary else None,
    )


def _listed(kept: KeptRecording) -> dict[str, Any]:
    about, summary = kept.about, kept.summary
    return {
        "name": kept.name,
        "session": about.session if about else None,
        "prompt_start": about.prompt[:PROMPT_START_LETTERS] if about else "",
        "members": [name[:_MOST_NAME_LETTERS] for name in about.names[:_MOST_MEMBERS]] if about else [],
        "opened_ms": about.opened_ms if about else None,
        "modified_ms": kept.modified_ms,
        "duration_s": _duration_s(summary) if summary else None,
        "windows": summary.frames if summary else None,
        "size_bytes": kept.size_bytes,
        "starred": kept.starred,
        "mean_agreement": summary.mean_agreement if summary else None,
        "agreement": list(summary.agreement[:_MOST_POINTS]) if summary else [],
        "diverged_at_bytes": summary.diverged_at_bytes if summary else None,
        "reason": (summary.reason or None) if summary else None,
        "text": about.text if about else None,
        "tokens": list(summary.tokens[:_MOST_MEMBERS]) if summary else [],
        "tier": about.tier if about else None,
        "problem": kept.problem or None,
    }


def _duration_s(summary: RecordingSummary) -> float:
    windows = summary.last_window - summary.first_window + 1 if summary.frames else 0
    return round(windows / FRAME_RATE_HZ, 3)


def _recorded(about: About) -> RecordedSession:
    return RecordedSession(
        prompt=about.prompt[:MAX_PROMPT_BYTES],
        system=about.system[:MAX_PROMPT_BYTES],
        prefix=about.prefix[:MAX_PREFIX_BYTES],
        parent=about.parent[:_MOST_NAME_LETTERS] or None,
        members=[_options(member) for member in about.members[:_MOST_MEMBERS]],
        temperature=about.temperature,
        max_tokens=about.max_tokens,
        seed=about.seed,
        sync=about.sync,
        weighting=about.weighting,
        origin_ns=about.origin_ns,
        recording_version=about.recording_version,
        entry_version=about.entry_version,
        frame_version=about.frame_version,
        council_version=about.council_version,
        python=about.python,
        platform=about.platform,
        gaps=list(about.gaps[:_MOST_GAPS]),
    )


def _options(member: RecordedMember) -> RecordedOptions:
    return RecordedOptions(
        model=member.model[:_MOST_NAME_LETTERS],
        name=member.name[:_MOST_NAME_LETTERS],
        weight=member.weight,
        remote=member.remote,
        temperature=member.temperature,
        seed=member.seed,
        max_tokens=member.max_tokens,
    )


def _outcome(summary: RecordingSummary) -> RecordedOutcome:
    return RecordedOutcome(
        first_window=summary.first_window,
        last_window=summary.last_window,
        final=summary.final,
        entries=summary.entries,
        events=summary.events,
        states=list(summary.states[:_MOST_MEMBERS]),
        diverged_window=summary.diverged_window,
        late=summary.late,
        duplicates=summary.duplicates,
        dead_letters=summary.dead_letters,
        superseded=summary.superseded,
        partings=summary.partings,
    )
