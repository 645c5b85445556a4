"""Golden sessions: token streams of real llama.cpp servers, as the aggregator read them. Every later version must read
them.

    NAME.msgpack.xz     one session: what it is, what made it, and its token stream, each entry with its id

`python -m tests.golden.record` made them. Nothing in them was changed afterwards, ids and times included.
"""

from __future__ import annotations

import lzma
from pathlib import Path

import msgspec

FOLDER = Path(__file__).parent
SUFFIX = ".msgpack.xz"


class Golden(msgspec.Struct, frozen=True):
    """One recorded session.

    `about` says what is worth seeing in it; `made_with` which llama.cpp answered; `members` how each member's model was
    built and served, by its name in the council. `entries` are (entry id, raw entry) in stream order, the opening
    first.
    """

    about: str
    made_with: str
    members: dict[str, str]
    entries: list[tuple[str, bytes]]


_decoder = msgspec.msgpack.Decoder(Golden)


def golden_names() -> list[str]:
    """The name of each golden session."""
    return sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def golden(name: str) -> Golden:
    """The session of that name."""
    return _decoder.decode(lzma.decompress((FOLDER / f"{name}{SUFFIX}").read_bytes()))


def golden_sessions() -> dict[str, list[tuple[str, bytes]]]:
    """The token stream of each session by its name."""
    return {name: golden(name).entries for name in golden_names()}


def keep(name: str, session: Golden) -> Path:
    """Writes the session to its file, completely or not at all."""
    path = FOLDER / f"{name}{SUFFIX}"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(lzma.compress(msgspec.msgpack.encode(session), preset=9 | lzma.PRESET_EXTREME))
    return unfinished.replace(path)
