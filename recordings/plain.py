"""Text of models and recordings for a terminal, without characters that control the terminal."""

from __future__ import annotations

from typing import Any

import msgspec

# C0 with escape, delete, C1 (some terminals execute them), and the marks that change the direction of writing.
_CONTROLS = {
    **dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " "),
    **dict.fromkeys((0x2028, 0x2029), " "),
    **dict.fromkeys((0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), None),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}
_CONTROLS_IN_TEXT = {number: put for number, put in _CONTROLS.items() if chr(number) not in "\n\t"}
_MOST_CHARACTERS = 200


def plain(text: str) -> str:
    """The text without control characters, in one line."""
    return text.translate(_CONTROLS)


def plain_text(text: str) -> str:
    """The text without control characters but line feeds and tabs."""
    return text.translate(_CONTROLS_IN_TEXT)


def short(text: str, most: int = _MOST_CHARACTERS) -> str:
    """As plain, with at most `most` characters."""
    line = plain(text[: most + 1])
    return line if len(line) <= most else f"{line[: most - 1]}…"


def shown_value(value: Any) -> str:
    """A value of a frame, as short JSON in one line."""
    return short(msgspec.json.encode(value).decode())
