"""The position of a token in its member's answer or thinking, in bytes.

text      "\\n The"   " sky"   " is"
answer    [0, 3)     [3, 7)   [7, 10)       from its first byte that is not ASCII white space
"""

from __future__ import annotations

from schemas.entries import Token

_WHITE_SPACE = b" \t\n\r\x0b\x0c"


def leading_space_dropped(data: bytes) -> bytes:
    """`data` from its first byte that is not ASCII white space: positions in an answer count from that byte."""
    return data.lstrip(_WHITE_SPACE)


def lane_bytes(token: Token, start: int) -> bytes:
    """The bytes that the token adds to its lane; `start` is the end of the tokens before it."""
    data = token.text.encode()
    return leading_space_dropped(data) if token.lane == "answer" and not start else data


def lane_end(token: Token, start: int) -> int:
    """The position in the lane at which the token ends."""
    return start + len(lane_bytes(token, start))
