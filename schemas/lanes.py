"""Where a token stands in its member's answer or thinking, in bytes.

text      "\\n The"   " sky"   " is"
answer    [0, 3)     [3, 7)   [7, 10)       from its first byte that is not ASCII white space
"""

from __future__ import annotations

from schemas.entries import Token

_WHITE_SPACE = b" \t\n\r\x0b\x0c"


def leading_space_dropped(data: bytes) -> bytes:
    """`data` from its first byte that is not ASCII white space: positions in an answer count from there."""
    return data.lstrip(_WHITE_SPACE)


def lane_end(token: Token, start: int) -> int:
    """Where the token ends in its lane, in bytes, where `start` is the end of the tokens before it."""
    data = token.text.encode()
    if token.lane == "answer" and not start:
        data = leading_space_dropped(data)
    return start + len(data)
