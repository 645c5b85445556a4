"""What a look at one part of the council's surroundings came to."""

from __future__ import annotations

from typing import Literal

import msgspec

# ok: as it should be. warning: the council runs, with less than there could be. missing: it needs this and has it not.
Status = Literal["ok", "warning", "missing"]


class Finding(msgspec.Struct, frozen=True):
    """`name` is what was looked at, `said` what was found there, `advice` what to do about it; sentences for a person
    who has never seen the project."""

    name: str
    status: Status
    said: str
    advice: str = ""


def refused(name: str, error: Exception, status: Status = "missing") -> Finding:
    """An error's sentence, whose last part says what to do: `No Redis answers (…): start one there.`"""
    said, separator, advice = str(error).rpartition(": ")
    if not separator:
        return Finding(name, status, str(error))
    return Finding(name, status, f"{said}.", f"{advice[:1].upper()}{advice[1:]}")
