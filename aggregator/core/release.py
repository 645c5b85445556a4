"""Releasing one member's answer: tokens are buffered, and their text is released up to a limit.

buffered   |The| sky| is blue|, and|          limit 9
released   |The| sky| i                       text to the last character boundary at or before the limit;
stays                  s blue|, and|          a token is in the frame that releases its last byte
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

import msgspec

from schemas.entries import Token
from schemas.frames import TokenFrame, shown_logprob
from schemas.rules.lanes import lane_end


class BufferedToken(msgspec.Struct, frozen=True, gc=False):
    """An accepted token of an answer. `order` is its number among all accepted tokens of the session, in the stream's
    order."""

    entry_id: str
    order: int
    shown: TokenFrame
    text: str

    @property
    def space_bytes(self) -> int:
        """The white space before position 0, which has no position of its own."""
        return len(self.text.encode()) - (self.shown.end - self.shown.start)

    def part(self, first: int, last: int) -> str:
        """Its text in [first, last) of the answer, both at boundaries of characters. Where the answer begins with it,
        the white space before position 0 belongs to its first part."""
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
    """What a checkpoint contains of a release queue: the tokens' entries and orders, and where the first one begins."""

    entry_ids: list[str] = []
    orders: list[int] = []
    start: int = 0


class ReleaseQueue:
    """The buffered tokens of one member's answer, oldest first; at most its max_tokens."""

    def __init__(self, buffered: BufferedTokens) -> None:
        """`buffered` are the tokens of a loaded record, whose contents restore() gives back."""
        self._queue: deque[BufferedToken] = deque()
        self._missing = dict(zip(buffered.entry_ids, buffered.orders, strict=True))
        self._end = buffered.start

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def oldest(self) -> str | None:
        """The entry of the first token."""
        return self._queue[0].entry_id if self._queue else None

    @property
    def buffered(self) -> BufferedTokens:
        """The queue, without what is in the tokens' entries."""
        queue = self._queue
        start = queue[0].shown.start if queue else 0
        return BufferedTokens([token.entry_id for token in queue], [token.order for token in queue], start)

    def add(self, entry_id: str, order: int, shown: TokenFrame, text: str) -> None:
        """Adds the next token."""
        self._queue.append(BufferedToken(entry_id, order, shown, text))

    def restore(self, entry_id: str, token: Token) -> None:
        """Gives a token of a loaded record its content back. Called in the stream's order."""
        order = self._missing.pop(entry_id, None)
        if order is not None:
            start, self._end = self._end, lane_end(token, self._end)
            self.add(entry_id, order, token_frame(token, start, self._end), token.text)

    @property
    def end(self) -> int:
        """The end of the last token; 0 without one."""
        return self._queue[-1].shown.end if self._queue else 0

    def text_from(self, position: int) -> bytes:
        """The text of the tokens from the byte `position` of the answer on, which is in the first of them, or before
        it."""
        if not self._queue:
            return b""
        text = b"".join([token.text.encode()[token.space_bytes :] for token in self._queue])
        return text[max(0, position - self._queue[0].shown.start) :]

    def cut(self, end: int) -> int:
        """Discards the tokens that end past this byte of the answer; returns how many."""
        count = 0
        while self._queue and self._queue[-1].shown.end > end:
            self._queue.pop()
            count += 1
        return count

    def pop_to(self, limit: int) -> list[tuple[int, TokenFrame]]:
        """Removes and returns the tokens that end at or before `limit`, with their orders."""
        popped = []
        while self._queue and self._queue[0].shown.end <= limit:
            token = self._queue.popleft()
            popped.append((token.order, token.shown))
        return popped

    def ends_past(self, limit: int) -> bool:
        """True where the first token ends past the limit. The queue is not empty."""
        return self._queue[0].shown.end > limit

    def release(self, position: int, limit: int) -> tuple[int, str, list[tuple[int, TokenFrame]]]:
        """(the new released end, the text that is released now, the tokens whose last byte is, with their orders);
        `position` is the released end so far."""
        queue, texts, released = self._queue, list[str](), list[tuple[int, TokenFrame]]()
        while queue and queue[0].shown.end <= limit:
            token = queue.popleft()
            shown = token.shown
            texts.append(token.text if position <= shown.start else token.part(position, shown.end))
            position = shown.end
            released.append((token.order, shown))
        if queue and limit > position:
            boundary = queue[0].boundary(limit)
            if boundary > position:
                texts.append(queue[0].part(position, boundary))
                position = boundary
        return position, "".join(texts), released


def token_frame(token: Token, start: int, end: int) -> TokenFrame:
    """The token as frames show it, at [start, end) of its lane."""
    return TokenFrame(token.member, token.lane, token.seq, start, end, shown_logprob(token.logprob), token.quality)


class ReleaseLog(msgspec.Struct, array_like=True):
    """In which window a member's limit passed which byte: it was raised to `ends[i]` in `windows[i]`. Both rise."""

    ends: list[int] = []
    windows: list[int] = []

    def add(self, end: int, window: int) -> None:
        """The limit in this window."""
        if end > (self.ends[-1] if self.ends else 0):
            self.ends.append(end)
            self.windows.append(window)

    def window_past(self, x: int) -> int:
        """The window in which the limit first passed the byte x, which is not yet forgotten."""
        return self.windows[bisect_right(self.ends, x)]

    def forget(self, x: int) -> None:
        """Forgets the bytes before x."""
        count = bisect_right(self.ends, x)
        if count:
            del self.ends[:count], self.windows[:count]
