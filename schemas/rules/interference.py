"""The kind of interference that an agreement between members means. Pure.

agreement   0          0.4           0.6          1
kind        destructive |   neutral   | constructive      both bounds belong to the outer kinds
"""

from __future__ import annotations

from schemas.frames import InterferenceKind

CONSTRUCTIVE = 0.6
DESTRUCTIVE = 0.4


def kind_of(agreement: float | None) -> InterferenceKind | None:
    """The kind of an agreement in [0, 1]; None without one."""
    if agreement is None:
        return None
    if agreement >= CONSTRUCTIVE:
        return "constructive"
    return "destructive" if agreement <= DESTRUCTIVE else "neutral"
