"""`council recover`: a new recording with the undamaged part of one, verified before it gets its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from council.recording.verify import Verification, verified
from recordings.parts import part_of
from recordings.repair import Salvage, salvage, write_salvaged
from recordings.writing import RecordingWriter
from schemas.errors import CouncilError, Malformed, Refused
from schemas.grid import FRAME_RATE_HZ

Progress = Callable[[int], None]


class Recovered(msgspec.Struct, frozen=True):
    """A recovered file: what was saved, and its verification."""

    found: Salvage
    verdict: Verification


def recovered(path: Path, out: Path, progress: Progress | None = None) -> Recovered:
    """Writes the undamaged part of `path` to `out`, and verifies it.

    Raises Refused where `out` exists or cannot be written, or `path` contains no recorded frame; Malformed where the
    result cannot be verified; Unavailable where the disk fails. In all these cases `out` is not made.
    """
    with part_of(out, is_private=True) as part:
        found = salvage(path, progress)
        if not found.frames:
            raise Refused("nothing_sound", f"{path} contains no undamaged frame: nothing can be saved.")
        about = msgspec.structs.replace(found.about, gaps=found.gaps)
        with part.open("wb") as file:
            writer = RecordingWriter(file, about, found.frame_schema)
            write_salvaged(path, found, writer)
            writer.finish(found.reason if found.is_whole else "It was recovered from a damaged file.")
        return Recovered(found, _proved(part, path, out, progress))


def _proved(part: Path, path: Path, out: Path, progress: Progress | None) -> Verification:
    try:
        verdict = verified(part, progress=progress)
    except CouncilError as error:
        raise Malformed(
            f"The undamaged part of {path} cannot be verified, and was not saved: "
            f"{str(error).replace(str(part), str(out))}"
        ) from None
    if verdict.is_right or (verdict.numbers_alone and not verdict.is_same_machine):
        return verdict
    wrong = verdict.difference
    where = f"window {wrong.window}, {wrong.field}" if wrong else "an unknown place"
    raise Malformed(
        f"The undamaged part of {path} cannot be verified, and was not saved: its frames differ from those that are "
        f"computed from its entries, first at {where}."
    )


def recover_lines(result: Recovered, path: Path, out: Path) -> list[str]:
    """The result as sentences for the user."""
    found, verdict = result.found, result.verdict
    if found.is_whole:
        lines = [f"{path} is whole: nothing was lost. {out} is a copy of it."]
    else:
        lost = sum(last - first + 1 for first, last in found.gaps)
        lines = [
            f"Saved {found.frames} frames, up to window {found.last_window} "
            f"({(found.last_window + 1) / FRAME_RATE_HZ:.1f} s), and {found.entries} entries.",
            f"Lost {found.lost_bytes} damaged bytes"
            + (f" and up to {lost} windows: {_gaps(found.gaps)}." if found.gaps else ".")
            + " Anything that was recorded after the last window is lost as well.",
        ]
    if verdict.unproved:
        lines.append(f"{verdict.unproved_because} {verdict.unproved} frames were saved as they were recorded.")
    if not verdict.is_right:
        lines.append(
            f"It was recorded on another machine ({verdict.python}, {verdict.platform}), whose numbers differ by up to "
            f"{verdict.largest:g}."
        )
    lines.append(f"{out} is verified: {verdict.compared} frames were computed again.")
    return lines


def _gaps(gaps: tuple[tuple[int, int], ...]) -> str:
    shown = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in gaps[:5])
    return shown + (f" and {len(gaps) - 5} more gaps" if len(gaps) > 5 else "")
