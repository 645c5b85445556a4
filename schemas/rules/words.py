"""Words: what one is, and where one ends in a text in UTF-8.

"The sky is blue."        from byte 3 on the word ends at byte 7, before the next white space
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# A word of a whole answer, as a person counts them: white space of all scripts divides them.
WORD = re.compile(r"\S+")
# Only ASCII white space divides a draft, which may end inside a character. Texts without it, as in Chinese, are cut
# after MOST_WORD_BYTES.
_WHITE_SPACE = b" \t\n\r\x0b\x0c"
MOST_WORD_BYTES = 64


def whole_characters(text: bytes, end: int) -> int:
    """The last boundary of characters at or before `end`."""
    end = min(end, len(text))
    while 0 < end < len(text) and text[end] & 0xC0 == 0x80:
        end -= 1
    return end


def character_end(text: bytes, end: int) -> int:
    """The first boundary of characters at or after `end`."""
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end += 1
    return end


def shared_beginning(texts: Sequence[bytes]) -> bytes:
    """The whole characters with which all of the texts begin."""
    least, most = min(texts), max(texts)
    differ = (i for i, (one, other) in enumerate(zip(least, most, strict=False)) if one != other)
    return least[: whole_characters(most, whole_characters(least, next(differ, len(least))))]


def word_end(text: bytes, *, is_whole: bool) -> int | None:
    """The end of the first word of a text, with the white space before it: before the next white space, at the end of
    a text that `is_whole`, or after MOST_WORD_BYTES. None where more of the text may belong to the word."""
    end, most = 0, min(len(text), MOST_WORD_BYTES)
    while end < most and text[end] in _WHITE_SPACE:
        end += 1
    while end < most and text[end] not in _WHITE_SPACE:
        end += 1
    if end < len(text) or is_whole or end == MOST_WORD_BYTES:
        return whole_characters(text, end)
    return None


def last_word_end(text: bytes, *, is_whole: bool) -> int:
    """The end of the last complete word of a text; 0 where it contains none. Where the text is longer than a word may
    be, its last whole character."""
    if is_whole:
        return len(text)
    end = len(text)
    while end and text[end - 1] not in _WHITE_SPACE:
        end -= 1
    while end and text[end - 1] in _WHITE_SPACE:
        end -= 1
    return end if end or len(text) < MOST_WORD_BYTES else whole_characters(text, len(text))
