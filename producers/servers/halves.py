"""Characters that a server sends in two parts: in the second one they are whole. Pure.

    "Hi \\ud83d"  "\\ude00!"        -->   "Hi "  "😀!"        halves of a UTF-16 pair, from servers in JavaScript
    b"Hi \\xf0\\x9f"  b"\\x98\\x80!"  -->   "Hi "  "😀!"        the bytes of one character, from servers in C

Text from JSON that is not valid UTF-8 has its odd bytes as U+DC80 to U+DCFF (`surrogateescape`), which UTF-16 text
never has alone either. A part without its other part is shown as U+FFFD.
"""

from __future__ import annotations

import codecs
import re

# Halves of a pair that stand for no byte.
_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
# At the end of a text: the first half of a pair, or up to three bytes of a character of four.
_MAYBE_UNFINISHED = re.compile("[\ud800-\udbff]$|[\udc80-\udcff]{1,3}$")


class Halves:
    """The text of one lane, part by part."""

    def __init__(self) -> None:
        self._kept = ""

    def feed(self, text: str) -> str:
        """What is certain after `text`: whole characters only."""
        if not self._kept and _is_whole(text):
            return text
        text = _paired(self._kept + text)
        kept = _unfinished(text)
        self._kept = text[len(text) - kept :]
        return _shown(text[: len(text) - kept])

    def end(self) -> str:
        """What was kept back, at the end of the text."""
        kept, self._kept = self._kept, ""
        return _shown(kept)


def whole_text(text: str) -> str:
    """A text that is complete, with whole characters only."""
    return text if _is_whole(text) else _shown(_paired(text))


def _is_whole(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _paired(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _unfinished(text: str) -> int:
    """How many characters at the end are the beginning of a character."""
    found = _MAYBE_UNFINISHED.search(text)
    if found is None:
        return 0
    if found[0] < "\udc00":
        return 1
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(found[0].encode("utf-8", "surrogateescape"))
    return len(decoder.getstate()[0])


def _shown(text: str) -> str:
    return _LONE.sub("\ufffd", text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
