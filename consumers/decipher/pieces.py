"""The text that a frame released of a member, cut where its tokens end. Pure.

released     "The sky i"        the answer up to byte 9
tokens       [0, 3) [3, 7)      whose last bytes were released with it
pieces       "The" " sky" " i"  the last one is part of a token that is still buffered
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.frames import MemberFrame, TokenFrame


def pieces(member: MemberFrame, tokens: Iterable[TokenFrame]) -> tuple[str, ...]:
    """They concatenate to the member's text. `tokens` are the member's own, of its answer; white space before position
    0 is in one piece with what follows it."""
    data = member.text.encode()
    # Positions are counted from the end, since white space at the beginning has no position.
    begin = member.position_bytes - len(data)
    cuts = sorted({token.end - begin for token in tokens if 0 < token.end - begin < len(data) and token.end})
    bounds = zip([0, *cuts], [*cuts, len(data)], strict=True)
    return tuple(data[first:last].decode() for first, last in bounds) if data else ()
