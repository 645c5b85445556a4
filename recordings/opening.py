"""The opening of a replay, from a recording."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from recordings.contents import About
from schemas.entries import decode_entry
from schemas.errors import Malformed, Refused
from schemas.sessions import (
    ENTRY_VERSION,
    LONGEST_MS,
    MAX_MEMBERS,
    REPLAYED_VERSIONS,
    WITHOUT_TEXT,
    Member,
    Opening,
    Replay,
    Sampling,
)

# More than six members with a system text of 32 KiB each, and a chat.
_MOST_BYTES = 1024 * 1024


def check_importable(path: Path) -> None:
    """Reads a whole file before it is imported into the library. Raises Refused where it is not a recording or cannot
    be replayed, Malformed where it is damaged."""
    from recordings.reading import RecordingReader  # as below

    with RecordingReader(path) as reader:
        for _ in reader.items():
            pass
    replay_opening(path, "", frames=not reader.about.text)


def replay_opening(path: Path, session: str, recording: str = "", *, frames: bool = False) -> tuple[str, Opening]:
    """(the id of the opening entry, the opening of the replay `session`) of the recording in the file `path`.

    `recording` is the file's name in the library, for the council's replay process. With `frames` the recorded frames
    are shown as they are, which a recording without text requires. Raises Refused where the file is not a recording or
    cannot be replayed, Malformed where it is damaged.
    """
    from recordings.reading import RecordingReader  # most processes read no recording, and do not need its libraries

    with RecordingReader(path) as reader:
        about = reader.about
        replay = Replay(about.session, recording, frames)
        if not about.text:
            if not frames:
                raise Refused(
                    "without_text",
                    f"{path} was recorded without text, so its frames cannot be computed again: show the recorded ones "
                    "with --frames.",
                    status=409,
                )
            return about.opened, _opening_without_text(about, session, replay)
        first = next((item for item in reader.items() if item.kind == "entry"), None)
    if first is None:
        raise Refused("empty_recording", f"{path} contains no session: there is nothing to replay.")
    try:
        opening = decode_entry(first.raw)
    except Malformed:
        opening = None
    if not isinstance(opening, Opening) or first.id != about.opened or opening.version not in REPLAYED_VERSIONS:
        raise Malformed(f"{path} does not begin with the opening of a session of this version: it cannot be replayed.")
    problem = _problem_of(opening, len(first.raw))
    if not problem and len(opening.members) != len(about.members):
        problem = f"its opening has {len(opening.members)} members, and its metadata {len(about.members)}"
    if problem:
        raise Malformed(f"{path} is not the recording of a council's session: {problem}. It cannot be replayed.")
    return first.id, msgspec.structs.replace(opening, version=ENTRY_VERSION, session=session, replay=replay)


def _problem_of(opening: Opening, size: int) -> str:
    """Why the opening cannot be from a council; empty where it can. The aggregator does not check openings, and shares
    its time and memory among all sessions."""
    profile, limits = opening.profile, msgspec.structs.astuple(opening.limits)
    numbers = (*msgspec.structs.astuple(profile), *(member.weight for member in opening.members))
    if size > _MOST_BYTES:
        return f"its opening has {size} bytes"
    if not 1 <= len(opening.members) <= MAX_MEMBERS:
        return f"it has {len(opening.members)} members"
    if not all(0 <= limit <= LONGEST_MS for limit in limits):
        return f"a limit is not between 0 and {LONGEST_MS}"
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        return "a weight or a constant of the energy is not a number, or is negative"
    if not (profile.tps_min < profile.tps_max and profile.stall_ms < profile.ceil_ms and profile.half_life_ms):
        return "a constant of the energy is out of range"
    return ""


def _opening_without_text(about: About, session: str, replay: Replay) -> Opening:
    """An opening with the values of the metadata, which are enough to show frames."""
    members = tuple(Member(one.model, one.weight, one.remote, name=one.name) for one in about.members)
    return Opening(
        ENTRY_VERSION,
        session,
        WITHOUT_TEXT,
        members,
        sampling=Sampling(about.max_tokens, about.temperature, about.seed),
        tier=about.tier,
        replay=replay,
    )
