"""Every key of a council in Redis, what it contains, and for whom it is, for docs/streams.md and docs/asyncapi.py.

A test compares the list with schemas/keys.py, and the fields of the state with the scripts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from schemas import keys
from schemas.control import Play, Stop
from schemas.entries import Alive, Beat, Cancel, Claim, Failed, Finished, Loading, Starved, Steered, Token, Waiting
from schemas.frames import Frame
from schemas.sessions import Opening
from transport.events import EVENTS_MAXLEN

Struct = type[msgspec.Struct]
_TIME = "`<Unix ms>-<n>`, the time by Redis's clock"
_WINDOW = "`<window + 1>-<n>`"


class Key(NamedTuple):
    """`name` has `{ID}`, with its braces, for a session's id. `is_public`: a program outside the council may rely on
    it. `fields` are those of an entry, `structs` the packed structs of which one is in its field `e`."""

    name: str
    kind: str
    is_public: bool
    content: str
    kept: str
    ids: str = ""
    fields: tuple[str, ...] = ()
    structs: tuple[Struct, ...] = ()


_OF_SESSION = "as long as the session's state"
KEYS = (
    Key(
        keys.SESSIONS, "stream", True, "the id of each session that was opened, a replay among them",
        "entries for two days; the stream for a day after the last process of the council", _TIME, ("s",),
    ),
    Key(
        keys.frames("ID"), "stream", True, "one [frame](#frames) for each window of 1/60 s",
        f"{_OF_SESSION}; the newest {keys.FRAMES_MAXLEN:,} or a little more, ten minutes", f"{_WINDOW}, with n = 0",
        ("e", "n"), (Frame,),
    ),
    Key(
        keys.events("ID"), "stream", True, "the messages of the [real-time protocol](protocol.md), as JSON",
        f"{_OF_SESSION}; the newest {EVENTS_MAXLEN:,} or a little more",
        f"{_WINDOW}: the frame of which it was composed, and n = 0, 1, 2, … in it; the last events have the window "
        "after the last frame", ("e", "n"),
    ),
    Key(
        keys.tokens("ID"), "stream", True,
        "the [entries](#entries-of-the-token-stream) of all members in one order, from which the frames are computed",
        f"{_OF_SESSION}; all of them", f"{_TIME}; in a replay the recorded ids", ("e",),
        (
            Opening, Token, Claim, Waiting, Loading, Alive, Starved, Finished, Failed, Cancel, Beat, Steered,
        ),
    ),
    Key(
        keys.state("ID"), "hash", True, "the session's [state](#state-of-a-session)",
        "the longest life of the session (`life_ms`) and an hour; from the end on an hour",
    ),
    Key(
        keys.dead("ID"), "stream", True,
        "entries of the token stream that did not decode: `id` is their id there, `e` their bytes",
        f"{_OF_SESSION}; the newest {keys.SIDE_STREAM_MAXLEN:,} or a little more", _TIME, ("id", "e"),
    ),
    Key(
        keys.control("ID"), "stream", False,
        "[orders](#orders-to-producers) to the session's producers, or to its replay",
        f"{_OF_SESSION}; the newest {keys.SIDE_STREAM_MAXLEN:,} or a little more", _TIME, ("e",), (Stop, Play),
    ),
    Key(
        keys.PROCESSES, "sorted set", True,
        "the names of the processes of the last minute, with the Unix ms of their last sign",
        "a day after the last process",
    ),
    Key(
        keys.process("NAME"), "string", True, "the [record](#records-of-processes) of a process, as JSON",
        f"{keys.PROCESS_TTL_S} s; it is written each second",
    ),
    Key(
        keys.KEEP, "stream", False, "orders to the recorder: ids of sessions to be recorded",
        "until they are executed; a day", _TIME, ("s",),
    ),
    Key(
        keys.RESIDENCY, "hash", False, "which models are in use, and which are being unloaded",
        "a day after the last use",
    ),
    Key(keys.LOADER, "hash", False, "the process that loads a model now, and those that wait for it", "seconds"),
)  # fmt: skip

# The fields of a session's state: what each contains, and whether a program outside the council may rely on it.
STATE = {
    "status": ("open or ended", True),
    "reason": ("a sentence: why no member answered, or why it ended without a final frame; otherwise missing", True),
    "window": ("the index of the last window that has a frame; -1: none yet", True),
    "opened": (
        "the id of the opening in the token stream. The first point of the global 60 Hz grid at or after it is the "
        "session's origin: window k begins at ⌈k · 10⁹ / 60⌉ ns after it", True,
    ),
    "cut": ("the id of the last entry of the token stream on which that frame depends", True),
    "phase": (
        "its phase ([protocol.md](protocol.md#the-sessions-state)); missing before its first event",
        True,
    ),
    "progress": ("msgpack: an array with the [Progress](#progress) of each member", False),
    "epoch": ("how often it was given an owner; commits of earlier owners are refused", False),
    "checkpoint": ("the state of the aggregator's core, once a second", False),
    "decipher": ("DECIPHER's cursor: the id of the last frame of which events were composed", False),
    "composer": ("DECIPHER's state at its cursor", False),
    "standing": ("msgpack: a map of the events that still hold at the cursor, as JSON, by their types", False),
    "errors": (
        "msgpack: the session's errors up to the cursor, an array of [window, code, error_event as JSON]; of each code "
        "the newest 32",
        False,
    ),
    "composed": ("1 after the last event", False),
    "branches": ("the ids of its what-if branches, with a space between them, at most 64", False),
    "server": ("the run_id of the Redis server that had the session last", False),
    "served": ("when that server first gave it an owner, in Unix ms; 0: it has had it from the opening on", False),
    "clock": ("of a replay: its own time in recorded Unix ms", False),
    "began": ("of a replay: when it was opened, in Unix ms", False),
    "played": ("of a replay: when its process last wrote, in Unix ms", False),
    "playback": ("of a replay: its [Playback](#playback), as JSON", False),
}  # fmt: skip
