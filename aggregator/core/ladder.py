"""What a session gives up when memory runs out: the ladder of tiers, and who stays on each rung.

    high: A B C D E F     E finds no memory -->  mid: A B C D            F was lighter or came later, E cannot run
    mid:  A B C D         A, the heaviest, finds none -->  low: A B      and A tries again in the room that C and D left
    low:  A B             A again -->  B                                 it had its room: its model does not fit

Weights decide; of equal ones the starved member goes first, then the last. Whoever starves twice, or where nobody could
make room, goes itself.
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
    """Who of the running members leaves, in their order. `weights` are the running members' by index.

    At least one leaves, and no more stay than the rung runs at once. Where room does not help the starved one goes
    first, however heavy: nobody leaves for it in vain.
    """
    most = len(weights) - 1
    if rung is not None:
        most = min(most, rung.max_parallel_models)
    is_first = {index: index == starved and not room_helps for index in weights}
    heaviest_first = sorted(weights, key=lambda index: (is_first[index], -weights[index], index == starved, index))
    return sorted(heaviest_first[most:])
