"""What the unaligned tokens proposed. A checkpoint does not contain it: it is read again from the stream."""

from __future__ import annotations

from collections.abc import Iterable

from aggregator.numbers.frontier import UnalignedToken
from aggregator.numbers.proposal import Proposal, proposal_of
from aggregator.numbers.toplist import TopList
from schemas.entries import Token

# A proposal of 20 pieces takes 3 KB, five times its token: of a member that is far ahead of the others, further
# proposals are computed when they are needed.
_MOST_READY = 256


class ProposalCache:
    """The proposals of unaligned tokens, oldest first. `missing` are the tokens of a loaded record, whose contents
    restore() gives back."""

    def __init__(self, missing: Iterable[str]) -> None:
        self._missing = set(missing)
        self._contents: dict[str, Token | Proposal] = {}

    @property
    def oldest(self) -> str | None:
        """The oldest entry with an unaligned token; None without one."""
        return next(iter(self._contents), None)

    def add(self, unaligned: UnalignedToken, token: Token, top: TopList | None, count: int) -> None:
        """Adds a token, the `count`th unaligned one of its member; `top` is its list, where it was measured."""
        self._contents[unaligned.entry_id] = token if count > _MOST_READY else proposal_of(token, unaligned.start, top)

    def restore(self, entry_id: str, token: Token) -> None:
        """Gives an unaligned token its content back; ignores other tokens."""
        if entry_id in self._missing:
            self._contents[entry_id] = token

    def forget(self, entry_ids: Iterable[str]) -> None:
        """Forgets these entries' tokens."""
        for entry_id in entry_ids:
            del self._contents[entry_id]

    def proposal(self, entry_id: str, start: int) -> Proposal:
        """What the unaligned token, which begins at `start`, proposed."""
        content = self._contents[entry_id]
        return content if isinstance(content, Proposal) else proposal_of(content, start)
