"""The output of `council verify`."""

from __future__ import annotations

from pathlib import Path

from council.recording.verify import Verification
from recordings.plain import shown_value
from recordings.writing import this_platform, this_python


def verify_lines(verdict: Verification, path: Path) -> list[str]:
    """The verdict as sentences; the outcome is first."""
    lines = [_outcome(verdict, path)]
    if wrong := verdict.difference:
        lines.append(
            f"window {wrong.window}, {wrong.field}: recorded {shown_value(wrong.one)}, computed "
            f"{shown_value(wrong.other)}"
        )
    if verdict.largest is not None and verdict.numbers_alone:
        lines.append(f"Only measured numbers differ, by {verdict.largest:g} at most.")
    if verdict.largest is not None and not verdict.is_same_machine:
        lines.append(
            f"It was recorded by {verdict.python} on {verdict.platform}; this is {this_python()} on {this_platform()}."
        )
        if not verdict.is_right and verdict.numbers_alone:
            lines.append(f"With --tolerance {verdict.largest:g} it counts as right.")
    if verdict.unproved:
        lines.append(
            f"{verdict.unproved_because} Of {verdict.unproved} frames only this was checked: each is there once, and "
            "in order."
        )
    if verdict.not_recorded:
        lines.append(
            f"The file begins with window {verdict.not_recorded}: the {verdict.not_recorded} frames before it are not "
            "in the file, and were not compared."
        )
    return lines


def _outcome(verdict: Verification, path: Path) -> str:
    counted = f"{verdict.compared} of {verdict.frames} frames were computed again from {verdict.entries} entries"
    if not verdict.is_right:
        return f"{path} is wrong: {counted} up to the difference." if verdict.compared else f"{path} is wrong."
    if not verdict.compared:
        return f"{path} is whole; its frames cannot be computed again."
    if verdict.largest is not None:
        return f"{path} is right within {verdict.tolerance:g}: {counted}."
    return f"{path} is right: {counted}, each the same byte for byte."
