"""One member's answer on its way out: tokens that wait, and the text that goes out up to a limit.

queue      |The| sky| is blue|, and|          limit 9
goes out   |The| sky| i                       text to the last character boundary at or before the limit;
waits                  s blue|, and|          a token's frame is that of its last byte
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

import msgspec

from schemas.entries import Token
from schemas.frames import TokenFrame, shown_logprob
from schemas.rules.lanes import lane_end


class Queued(msgspec.Struct, frozen=True, gc=False):
    """An accepted token of an answer. `place` counts the session's accepted tokens, in the stream's order."""

    entry_id: str
    order: int
    shown: TokenFrame
    text: str

    @property
    def space_bytes(self) -> int:
        """The white space before position 0, which has no position of its own."""
        return len(self.text.encode()) - (self.shown.end - self.shown.start)

    def part(self, first: int, last: int) -> str:
        """Its text in [first, last) of the answer, both at boundaries of characters; with the white space before it
        where it is the beginning."""
        offset = self.space_bytes - self.shown.start
        begin = 0 if first == self.shown.start else first + offset
        return self.text.encode()[begin : last + offset].decode()

    def boundary(self, limit: int) -> int:
        """The last character boundary at or before `limit`, which lies in it."""
        data, offset = self.text.encode(), self.space_bytes - self.shown.start
        while data[limit + offset] & 0xC0 == 0x80:
            limit -= 1
        return limit


class BufferedTokens(msgspec.Struct, array_like=True):
    """What a checkpoint holds of a queue: the tokens' entries and places, and where the first one begins."""

    entry_ids: list[str] = []
    places: list[int] = []
    start: int = 0


class Outflow:
    """What waits of one member's answer, oldest first; bounded by its max_tokens."""

    def __init__(self, waiting: BufferedTokens) -> None:
        """`waiting` are the tokens that a loaded record wants restored."""
        self._queue: deque[Queued] = deque()
        self._wanted = dict(zip(waiting.entry_ids, waiting.places, strict=True))
        self._end = waiting.start

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def oldest(self) -> str | None:
        """The entry of the first token that waits."""
        return self._queue[0].entry_id if self._queue else None

    @property
    def waiting(self) -> BufferedTokens:
        """The queue, less what the tokens' entries tell."""
        queue = self._queue
        start = queue[0].shown.start if queue else 0
        return BufferedTokens([token.entry_id for token in queue], [token.order for token in queue], start)

    def add(self, entry_id: str, order: int, shown: TokenFrame, text: str) -> None:
        """The next token, which waits behind the others."""
        self._queue.append(Queued(entry_id, order, shown, text))

    def restore(self, entry_id: str, token: Token) -> None:
        """Gives a token of a loaded record its content back, in the stream's order."""
        order = self._wanted.pop(entry_id, None)
        if order is not None:
            start, self._end = self._end, lane_end(token, self._end)
            self.add(entry_id, order, token_frame(token, start, self._end), token.text)

    def waits_past(self, limit: int) -> bool:
        """True where the first token that waits ends past the limit."""
        return self._queue[0].shown.end > limit

    def release(self, position: int, limit: int) -> tuple[int, str, list[tuple[int, TokenFrame]]]:
        """(the released end, the text that goes out now, the tokens whose last byte does, with their places), where
        `position` is the released end so far."""
        queue, texts, gone = self._queue, list[str](), list[tuple[int, TokenFrame]]()
        while queue and queue[0].shown.end <= limit:
            token = queue.popleft()
            shown = token.shown
            texts.append(token.text if position <= shown.start else token.part(position, shown.end))
            position = shown.end
            gone.append((token.order, shown))
        if queue and limit > position:
            boundary = queue[0].boundary(limit)
            if boundary > position:
                texts.append(queue[0].part(position, boundary))
                position = boundary
        return position, "".join(texts), gone


def token_frame(token: Token, start: int, end: int) -> TokenFrame:
    """The token as frames show it, at [start, end) of its lane."""
    return TokenFrame(token.member, token.lane, token.seq, start, end, shown_logprob(token.logprob), token.quality)


class ReleaseLog(msgspec.Struct, array_like=True):
    """When a member's limit went past which place: it was raised to `ends[i]` in `windows[i]`. Both rise."""

    ends: list[int] = []
    windows: list[int] = []

    def add(self, end: int, window: int) -> None:
        """The limit in this window."""
        if end > (self.ends[-1] if self.ends else 0):
            self.ends.append(end)
            self.windows.append(window)

    def window_past(self, x: int) -> int:
        """The window in which the limit first went past the byte x, which is not yet forgotten."""
        return self.windows[bisect_right(self.ends, x)]

    def forget(self, x: int) -> None:
        """Nobody will ask for a byte before x."""
        count = bisect_right(self.ends, x)
        if count:
            del self.ends[:count], self.windows[:count]
