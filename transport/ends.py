"""The marks with which a session's members finished: they contain what no frame does, such as the tokens of a prompt.

token stream    claim A   A:0   A:1   finished A   ...   claim B: finished   ...   | cut
                                      ^ counts           ^ another claim     <---- read backwards, page by page
"""

from __future__ import annotations

from collections.abc import Collection

from schemas import keys
from schemas.control import Progress
from schemas.entries import Finished, decode_entry
from schemas.errors import Malformed
from transport.answers import find_released
from transport.redis.connection import AsyncPipe, accepted
from transport.tokens import entries_read

# Decoding so many entries takes 1 to 2 ms of the event loop: a tenth of a frame's time.
_PAGE = 500
# In step, members end within seconds of each other. 20,000 entries are the last three minutes of six models that write
# 15 tokens a second each, and some 12 MB: more is not worth reading for one number.
_MOST_PAGES = 40


async def find_finished(pipe: AsyncPipe, session: str, members: Collection[int]) -> dict[int, Finished]:
    """The mark of each of these members that the newest frame shows as finished, by the member's index. A member whose
    mark is more than 20,000 entries before the last committed one is left out, and so is one whose draft the council
    ended without its mark.

    Raises SessionGone, Malformed, RedisAway, RedisRefuses.
    """
    state, frame, _ = await find_released(pipe, session)
    shown = frame.members if frame else ()
    ends = {
        number: progress
        for number, (member, progress) in enumerate(zip(shown, state.progress, strict=False))
        if number in members and member.state == "finished" and progress.claim
    }
    found = dict[int, Finished]()
    last, key = state.cut, keys.tokens(session)
    for _ in range(_MOST_PAGES):
        missing = ends.keys() - found.keys()
        if not missing:
            break
        first = min((ends[number].claim for number in missing), key=keys.entry_order)
        page = entries_read(accepted(await pipe.one("XREVRANGE", key, last, first, "COUNT", _PAGE)))
        for _, raw in page:
            mark = _mark_in(raw)
            if mark and mark.member in missing and _counts(mark, ends[mark.member]):
                found[mark.member] = mark
        if len(page) < _PAGE:
            break
        last = f"({page[-1][0]}"
    return found


def _mark_in(raw: bytes) -> Finished | None:
    try:
        entry = decode_entry(raw)
    except Malformed:
        return None
    return entry if isinstance(entry, Finished) else None


def _counts(mark: Finished, progress: Progress) -> bool:
    """True for the end that the aggregator has accepted: of the winning claim, behind its last accepted token."""
    accepted_end = (progress.claim, progress.branch, progress.next_seq)
    return (mark.claim, mark.branch, mark.tokens) == accepted_end
