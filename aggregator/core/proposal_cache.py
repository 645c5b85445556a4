"""What the kept tokens said. A checkpoint holds none of it: it comes again from the stream."""

from __future__ import annotations

from collections.abc import Iterable

from aggregator.numbers.frontier import Kept
from aggregator.numbers.proposal import Proposal, proposal_of
from aggregator.numbers.toplist import TopList
from schemas.entries import Token

# A proposal of 20 pieces takes 3 KB, five times its token: those of a member that is far ahead of the others are
# computed when they are needed.
_MOST_READY = 256


class ProposalCache:
    """The proposals of kept tokens, oldest first. Those of a loaded record are wanted until they are restored."""

    def __init__(self, wanted: Iterable[str]) -> None:
        self._wanted = set(wanted)
        self._held: dict[str, Token | Proposal] = {}

    @property
    def oldest(self) -> str | None:
        """The oldest entry whose token is kept; None where none is."""
        return next(iter(self._held), None)

    def add(self, kept: Kept, token: Token, top: TopList | None, count: int) -> None:
        """A token that was kept, of its member the `count`th; `top` is its list, where it was measured."""
        self._held[kept.entry_id] = token if count > _MOST_READY else proposal_of(token, kept.start, top)

    def restore(self, entry_id: str, token: Token) -> None:
        """Gives a kept token its content back, where this is one."""
        if entry_id in self._wanted:
            self._held[entry_id] = token

    def forget(self, gone: Iterable[str]) -> None:
        """Lets go of these entries' tokens."""
        for entry_id in gone:
            del self._held[entry_id]

    def proposal(self, entry_id: str, start: int) -> Proposal:
        """What the kept token, which begins at `start`, proposed."""
        held = self._held[entry_id]
        return held if isinstance(held, Proposal) else proposal_of(held, start)
