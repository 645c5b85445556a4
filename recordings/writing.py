"""Writing a recording.

    entries, frames, events, health --add_*--> the open chunk --flush, each second--> the file
                                                        finish --> summary and indexes; the file is complete

Flushed messages survive a crash of the process: `recordings/repair.py` makes a complete file of them.
"""

from __future__ import annotations

import platform
from typing import IO, Any

import msgspec
from mcap.writer import Writer

from recordings.contents import (
    ABOUT,
    EVENTS,
    FRAMES,
    HEALTH,
    PROFILE,
    RECORDING_VERSION,
    SESSION,
    SUMMARY,
    TOKENS,
    About,
    Health,
    RecordedMember,
    RecordingSummary,
    metadata_of,
    recorded_entry,
    schemas_of_channels,
)
from recordings.records import Item
from recordings.summing import Summing
from schemas.errors import Malformed
from schemas.frame_json import FRAME_JSON_VERSION, frame_of_json, recorded_frame_json
from schemas.frames import ConsensusFrame, Frame
from schemas.grid import NS_PER_MS, next_grid_point_ns, window_start_ns
from schemas.keys import entry_ms
from schemas.sessions import Opening

# The writer ends a chunk each second, and a chunk of this size at once, so that a reader needs little memory.
_MOST_CHUNK_BYTES = 1024 * 1024
_LIBRARY = "turbo-ensemble"


def about_session(opening: Opening, opened: str, council_version: str, *, text: bool = True) -> About:
    """The metadata of a recording by this process; `opened` is the id of the session's opening entry."""
    members = [
        RecordedMember(
            member.model, member.display_name, member.weight, member.remote,
            *((own.temperature, own.seed, own.max_tokens) if (own := member.sampling) else (None, None, None)),
        )
        for member in opening.members
    ]  # fmt: skip
    return About(
        recording_version=RECORDING_VERSION,
        session=opening.session,
        opened=opened,
        origin_ns=str(next_grid_point_ns(entry_ms(opened) * NS_PER_MS)),
        prompt=opening.prompt if text else "",
        system=opening.system if text else "",
        members=tuple(members),
        temperature=opening.sampling.temperature,
        max_tokens=opening.sampling.max_tokens,
        seed=opening.sampling.seed,
        sync=opening.sync,
        weighting=opening.weighting,
        tier=opening.tier,
        council_version=council_version,
        entry_version=opening.version,
        frame_version=FRAME_JSON_VERSION,
        python=this_python(),
        platform=this_platform(),
        text=text,
        prefix=opening.prefix if text else "",
        parent=opening.parent.session if opening.parent else "",
    )


def this_python() -> str:
    """The interpreter, such as "CPython 3.11.7"."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def this_platform() -> str:
    """System, processor and C library, by which the last digits of numbers may differ."""
    return " ".join(filter(None, (platform.system(), platform.machine(), *platform.libc_ver())))


class RecordingWriter:
    """Writes one recording into `file`, and does not close it. The methods raise OSError where the file cannot be
    written."""

    def __init__(self, file: IO[bytes], about: About, frame_schema: bytes | None = None) -> None:
        """`frame_schema` is the JSON Schema of copied frames that another version recorded."""
        self._about, self._origin_ns = about, int(about.origin_ns)
        # The library leaves some of it untyped.
        self._writer: Any = Writer(file, chunk_size=_MOST_CHUNK_BYTES, enable_data_crcs=True)
        self._writer.start(profile=PROFILE, library=f"{_LIBRARY} {about.council_version}")
        self._writer.add_metadata(ABOUT, metadata_of(about))
        schemas = {name: msgspec.json.encode(content) for name, content in schemas_of_channels().items()}
        schemas["council.Frame"] = frame_schema or schemas["council.Frame"]
        schema = {name: self._writer.register_schema(name, "jsonschema", raw) for name, raw in schemas.items()}
        self._topics: dict[int, str] = {}
        self._session = self._channel(SESSION, schema["council.Entry"])
        self._tokens = [self._channel(f"{TOKENS}{name}", schema["council.Entry"]) for name in about.names]
        self._frames = self._channel(FRAMES, schema["council.Frame"])
        self._events = self._channel(EVENTS, schema["council.Event"])
        self._health = self._channel(HEALTH, schema["council.Health"])
        self._summing = Summing(len(about.members))
        self._sequence = 0

    def _channel(self, topic: str, schema: int) -> int:
        channel: int = self._writer.register_channel(topic, "json", schema)
        self._topics[channel] = topic
        return channel

    def _add(self, channel: int, at_ns: int, data: bytes) -> None:
        if not 0 <= at_ns < 2**64:
            raise Malformed(f"a message has the time {at_ns} ns, which is out of range")
        # The sequence is the order of messages with the same time.
        self._sequence += 1
        counted = self._summing.bytes_of
        topic = self._topics[channel]
        counted[topic] = counted.get(topic, 0) + len(data)
        self._writer.add_message(channel, at_ns, data, at_ns, self._sequence & 0xFFFF_FFFF)

    def add_entry(self, entry_id: str, raw: bytes) -> None:
        """Adds the next entry of the token stream."""
        entry, member = recorded_entry(entry_id, raw, self._origin_ns, text=self._about.text)
        is_known = member is not None and 0 <= member < len(self._tokens)
        channel = self._tokens[member] if is_known and member is not None else self._session
        self._summing.entries += 1
        self._add(channel, entry_ms(entry_id) * NS_PER_MS, msgspec.json.encode(entry))

    def add_frame(self, frame: Frame) -> None:
        """Adds the frame of the next window."""
        self._summing.add_frame(frame)
        if not self._about.text:
            frame = _without_text(frame)
        self._add(self._frames, self._origin_ns + frame.end_ns, recorded_frame_json(frame))

    def add_event(self, window: int, raw: bytes) -> None:
        """Adds the next event of the real-time protocol, as JSON, and its window."""
        if not self._about.text and b'"token_stream"' in raw:
            return
        self._summing.events += 1
        self._add(self._events, self._origin_ns + window_start_ns(window + 1), raw)

    def add_health(self, at_ns: int, health: Health) -> None:
        """Adds the positions of the council's processes at a time, in nanoseconds of Unix time."""
        self._add(self._health, at_ns, msgspec.json.encode(health))

    def add_recorded(self, item: Item) -> None:
        """Copies a message of another recording of this session, byte for byte. Raises Malformed for a frame that does
        not decode."""
        if item.kind == "frame":
            self._summing.add_frame(frame_of_json(item.raw))
        self._summing.entries += item.kind == "entry"
        self._summing.events += item.kind == "event"
        channel = next((number for number, topic in self._topics.items() if topic == item.topic), self._session)
        self._add(channel, item.log_ns, item.data)

    def flush(self) -> None:
        """Ends the open chunk: the messages so far survive a crash of this process."""
        self._writer.flush()

    def finish(self, reason: str = "") -> RecordingSummary:
        """Completes the file, and returns its summary. `reason` is why the session ended, if not by itself."""
        self._writer.flush()
        summary = self._summing.summary(reason)
        self._writer.add_metadata(SUMMARY, metadata_of(summary))
        self._writer.finish()
        return summary


def _without_text(frame: Frame) -> Frame:
    """The frame's numbers. The beginning of the text that lost a decision is left out too, and so are the texts of the
    mixture."""
    silent = tuple([msgspec.structs.replace(one, text="", thinking="") for one in frame.members])
    agreed, decisions, mixture = frame.consensus.agreed, frame.consensus.decisions, frame.consensus.mixture
    consensus = ConsensusFrame(
        None if agreed is None else "",
        None if decisions is None else tuple([msgspec.structs.replace(one, runner_up=None) for one in decisions]),
        None if mixture is None else tuple([msgspec.structs.replace(span, top=()) for span in mixture]),
    )
    return msgspec.structs.replace(frame, members=silent, consensus=consensus)
