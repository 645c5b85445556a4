"""The result of one check of `council doctor`."""

from __future__ import annotations

from typing import Literal

import msgspec

# ok: nothing to do. warning: the council runs, with restrictions. missing: the council cannot run.
Status = Literal["ok", "warning", "missing"]


class Finding(msgspec.Struct, frozen=True):
    """`name` is the checked part, `said` the result, `advice` what to do. `said` and `advice` are sentences for a user
    who does not know the project."""

    name: str
    status: Status
    said: str
    advice: str = ""


def refused(name: str, error: Exception, status: Status = "missing") -> Finding:
    """The finding of an error whose sentence ends with advice: `No Redis answers (…): start one there.`"""
    said, separator, advice = str(error).rpartition(": ")
    if not separator:
        return Finding(name, status, str(error))
    return Finding(name, status, f"{said}.", f"{advice[:1].upper()}{advice[1:]}")
