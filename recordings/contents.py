"""The format of recordings: a session as an MCAP file (https://mcap.dev/spec).

    header         profile "turbo-ensemble"
    metadata       council            About: the prompt, the members, the options, what recorded it
    chunks, each of a second at most:
      /session            the opening, and the entries of no member (cancel, beat)
      /tokens/MEMBER      the other entries of the token stream, each with its id and byte for byte
      /frames             one frame for each window
      /events             the real-time protocol's events
      /health             the positions of the council's processes, once a second
    metadata       council.summary    RecordingSummary: the outcome of the session
    indexes        for searching the file, with any reader of MCAP

Messages are JSON, with a JSON Schema in the file. The log_time of a message is the time of its event: the millisecond
of an entry's id, or the end of a frame's window, also for the events of the frame. JSON has no integers over 2**53, so
times in nanoseconds of Unix time are strings.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from schemas.entries import Steered, Token, decode_entry
from schemas.errors import Malformed
from schemas.frame_json import RecordedFrame
from schemas.grid import NS_PER_MS
from schemas.named import plain_schema
from schemas.sessions import Opening

# A file of a later version is refused, one of an earlier version is read.
RECORDING_VERSION = 1
PROFILE = "turbo-ensemble"
ABOUT, SUMMARY = "council", "council.summary"
SESSION, TOKENS, FRAMES, EVENTS, HEALTH = "/session", "/tokens/", "/frames", "/events", "/health"
SUFFIX = ".mcap"
_CHECKSUM = "crc32"

M = TypeVar("M", bound=msgspec.Struct)


class RecordedMember(msgspec.Struct, frozen=True):
    """A member in the metadata. An option that is None is the session's."""

    model: str
    name: str
    weight: float = 1.0
    remote: bool = False
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None


class About(msgspec.Struct, frozen=True):
    """The metadata `council`: the request, and the software that recorded it.

    `opened` is the id of the opening entry, `origin_ns` the beginning of window 0 in nanoseconds of Unix time. Without
    `text` the file contains numbers alone: no prompt, no answers, no token entries. `gaps` are the windows [first,
    last] that were lost before the file was recovered. `prefix` is the beginning of every answer, `parent` the session
    of which this is a what-if branch; else both are empty.
    """

    recording_version: int
    session: str
    opened: str
    origin_ns: str
    prompt: str
    system: str
    members: tuple[RecordedMember, ...]
    temperature: float
    max_tokens: int
    seed: int | None
    sync: str
    weighting: str
    tier: str
    council_version: str
    entry_version: int
    frame_version: int
    python: str
    platform: str
    text: bool = True
    gaps: tuple[tuple[int, int], ...] = ()
    prefix: str = ""
    parent: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The members' display names."""
        return tuple(member.name for member in self.members)

    @property
    def opened_ms(self) -> int:
        """The time at which the session was opened, in milliseconds of Unix time."""
        return int(self.opened.partition("-")[0])


class RecordingSummary(msgspec.Struct, frozen=True):
    """The metadata `council.summary`: the outcome of the session, from the messages of the file.

    `first_window` and `last_window` are those of the first and last frame (-1: none). `final`: the last frame ends the
    session. `tokens` and `states` are in the order of the members. `agreement` has the means over up to 64 equal parts
    of the session, None where it was not measured. `bytes_of` are the bytes of each channel's messages, uncompressed.
    `superseded` are tokens that were discarded, `partings` how often the drafts of a council that writes one answer
    parted (None where each member writes its own), `estimates` how many of them its lists did not decide for certain.
    """

    first_window: int = -1
    last_window: int = -1
    frames: int = 0
    final: bool = False
    reason: str = ""
    entries: int = 0
    events: int = 0
    tokens: tuple[int, ...] = ()
    states: tuple[str, ...] = ()
    agreement: tuple[float | None, ...] = ()
    mean_agreement: float | None = None
    diverged_at_bytes: int | None = None
    diverged_window: int | None = None
    late: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    tier: str = ""
    bytes_of: dict[str, int] = {}
    superseded: int = 0
    partings: int | None = None
    estimates: int = 0


class RecordedEntry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An entry of the token stream. `entry` are its bytes as they are in Redis (JSON: base64). `kind` is its tag:
    `token` for a token, empty for an entry that does not decode. The other fields are set for tokens, so that they can
    be plotted; `branch` where it is not 0, and with the text that was given also for `steered`."""

    id: str
    entry: bytes = b""
    kind: str = ""
    member: int | None = None
    seq: int | None = None
    lane: str | None = None
    text: str | None = None
    logprob: float | None = None
    quality: str | None = None
    arrival_ms: float | None = None
    branch: int = 0


class Health(msgspec.Struct, frozen=True):
    """The positions of a session's readers: windows due and not committed, and committed and not composed. And the
    number of owners, Redis's memory, and the CPU time of the council's processes in seconds."""

    window_index: int
    aggregator_lag: int
    decipher_lag: int
    epoch: int
    redis_used_bytes: int
    processes: int
    cpu_s: float


def metadata_of(struct: msgspec.Struct) -> dict[str, str]:
    """The struct as MCAP's metadata, whose values are texts: text fields as they are, others as JSON; and a checksum of
    all, since MCAP has none for metadata."""
    values = {name: getattr(struct, name) for name in struct.__struct_fields__}
    texts = {n: v if isinstance(v, str) else msgspec.json.encode(v).decode() for n, v in values.items()}
    return {**texts, _CHECKSUM: _checksum(texts)}


def _checksum(texts: Mapping[str, str]) -> str:
    return f"{zlib.crc32(msgspec.json.encode(sorted(texts.items()))):08x}"


def struct_of(metadata: Mapping[str, str], kind: type[M]) -> M:
    """The reverse of metadata_of; unknown keys are ignored. Raises Malformed."""
    found = {name: text for name, text in metadata.items() if name != _CHECKSUM}
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != _checksum(found):
        raise Malformed("the checksum of its metadata is wrong")
    texts = {field.name for field in msgspec.structs.fields(kind) if field.type is str}
    try:
        values: dict[str, Any] = {
            name: text if name in texts else msgspec.json.decode(text)
            for name, text in metadata.items()
            if name in kind.__struct_fields__
        }
        return msgspec.convert(values, kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Malformed(f"its metadata does not decode: {error}") from error


def recorded_entry(entry_id: str, raw: bytes, origin_ns: int, *, text: bool = True) -> tuple[RecordedEntry, int | None]:
    """(the entry for a recording, its member or None). Without `text` its bytes and its text are left out."""
    kept = raw if text else b""
    try:
        entry = decode_entry(raw)
    except Malformed:
        return RecordedEntry(entry_id, kept), None
    if isinstance(entry, Token):
        logprob = entry.logprob
        # JSON has neither NaN nor infinities; the entry's bytes contain the exact value.
        shown = logprob if logprob is not None and -1e308 < logprob < 1e308 else None
        return (
            RecordedEntry(
                entry_id, kept, "token", entry.member, entry.seq, entry.lane, entry.text if text else None, shown,
                entry.quality, round((entry.arrival_ns - origin_ns) / NS_PER_MS, 3), entry.branch,
            ),
            entry.member,
        )  # fmt: skip
    kind = str(entry.__struct_config__.tag)
    if isinstance(entry, Opening) and not text:
        return RecordedEntry(entry_id, b"", kind), None
    if isinstance(entry, Steered):
        given = entry.text if text else None
        return RecordedEntry(entry_id, kept, kind, entry.member, text=given, branch=entry.branch), entry.member
    member = getattr(entry, "member", None)
    return RecordedEntry(entry_id, kept, kind, member), member


def topics_of(about: About) -> dict[int, str]:
    """The topics of a recording's channels, by the ids that the council gives them."""
    topics = (SESSION, *(f"{TOKENS}{name}" for name in about.names), FRAMES, EVENTS, HEALTH)
    return dict(enumerate(topics, 1))


def schemas_of_channels() -> dict[str, dict[str, Any]]:
    """The JSON Schema of the messages of each kind of channel, by the name of the schema."""
    return {
        "council.Entry": plain_schema(RecordedEntry),
        "council.Frame": plain_schema(RecordedFrame),
        "council.Event": _event_schema(),
        "council.Health": plain_schema(Health),
    }


def _event_schema() -> dict[str, Any]:
    """A schema that fits all events of the protocol; docs/protocol has the schema of each."""
    number, text = {"type": "number"}, {"type": "string"}
    payload = {
        **dict.fromkeys(("totalEnergy", "deltaEnergy", "intensity", "coherenceScore"), number),
        **dict.fromkeys(("frequency", "amplitude"), number),
        **dict.fromkeys(("patternType", "resonanceType", "fieldType", "modelId", "code", "message", "severity"), text),
        "tokensGenerated": {"type": "integer"},
        "isComplete": {"type": "boolean"},
        "tokens": {"type": "array", "items": text},
        "models": {"type": "array", "items": text},
        "participants": {"type": "array", "items": text},
    }
    return {
        "title": "Event",
        "type": "object",
        "properties": {
            "type": text,
            "channel": text,
            "timestamp": {"type": "integer"},
            "frameNumber": {"type": "integer"},
            "payload": {"type": "object", "properties": payload},
        },
    }
