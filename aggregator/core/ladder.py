"""What a session gives up when memory runs out: the ladder of tiers, and which members stay on each rung.

    high: A B C D E F     no memory for E -->  mid: A B C D              F was lighter or came later, E cannot run
    mid:  A B C D         no memory for A, the heaviest -->  low: A B    and A tries again in the room of C and D
    low:  A B             no memory for A again -->  B                   A had its room: its model does not fit

The weights decide; of members with one weight the starved one is dropped first, then the last. A member that starves
twice is dropped itself, and so is one for which no other member can make room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.sessions import Rung


def rung_below(ladder: Sequence[Rung], fallen: int) -> Rung | None:
    """The next lower tier after `fallen` falls; None at the lowest."""
    return ladder[fallen] if fallen < len(ladder) else None


def members_to_drop(
    weights: Mapping[int, float], starved: int, rung: Rung | None, *, room_helps: bool = True
) -> list[int]:
    """The running members to drop, in their order. `weights` are the running members' by index.

    At least one is dropped, and no more stay than the rung runs at once. Where room does not help the starved one is
    dropped first, however heavy: no other member is dropped in vain.
    """
    most = len(weights) - 1
    if rung is not None:
        most = min(most, rung.max_parallel_models)
    is_first = {index: index == starved and not room_helps for index in weights}
    heaviest_first = sorted(weights, key=lambda index: (is_first[index], -weights[index], index == starved, index))
    return sorted(heaviest_first[most:])
