"""The text that the models learn: what `help("topics")` shows, as prose.

Every Python contains these chapters of its language reference, some eighty, with small differences between versions: so
a demonstration needs no download. A chapter becomes passages:

    chapter --blank lines--> blocks --one indentation, a sentence--> paragraphs --joined to 90 words--> passages

Headings, grammars, code and tables are left out. A paragraph that several chapters repeat counts once.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator

# A model learns to end where passages end, so this decides the length of answers: most have 30 to 180 words.
PASSAGE_WORDS = 90
PARAGRAPH_WORDS = 8

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_BULLET = re.compile(r"^( *)[*+-] ")
_NOT_PROSE = re.compile(r"::=|>>>|^(?:Added|Changed|Deprecated|New|Removed) in version")
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}(\w[^*]*?)\*{1,2}(?![\w*])")
_FOOTNOTE = re.compile(r" \[\d+\]")


def load_passages() -> tuple[str, ...]:
    """The passages of this Python's own topics, in their order. Raises ImportError where there are none."""
    spec = importlib.util.find_spec("pydoc_data.topics")
    if spec is None or spec.loader is None:
        raise ImportError("pydoc_data.topics is missing")
    # Not imported: an imported module stays in memory, and this one is read once.
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return passages_of(module.topics.values())


def passages_of(chapters: Iterable[str]) -> tuple[str, ...]:
    """Runs of a chapter's paragraphs, separated by a blank line; all but the last have at least PASSAGE_WORDS words."""
    passages: list[str] = []
    seen: set[str] = set()
    for chapter in chapters:
        gathered: list[str] = []
        words = 0
        for paragraph in _paragraphs(chapter):
            if paragraph in seen:
                continue
            seen.add(paragraph)
            gathered.append(paragraph)
            words += len(paragraph.split())
            if words >= PASSAGE_WORDS:
                passages.append("\n\n".join(gathered))
                gathered, words = [], 0
        if gathered:
            passages.append("\n\n".join(gathered))
    return tuple(passages)


def _paragraphs(chapter: str) -> Iterator[str]:
    """The blocks that are prose: one indentation (code has several), a capital at the start, a full stop at the end."""
    for block in _BLANK_LINES.split(chapter.strip("\n")):
        lines = _BULLET.sub(r"\1  ", block).split("\n")
        if len({len(line) - len(line.lstrip()) for line in lines}) > 1:
            continue
        text = _plain(" ".join(" ".join(lines).split()))
        if (
            text[:1].isupper()
            and text.endswith(".")
            and len(text.split()) >= PARAGRAPH_WORDS
            and not _NOT_PROSE.search(text)
        ):
            yield text


def _plain(text: str) -> str:
    """The text without mark-up: straight quotes around literals, asterisks around emphasis, footnote numbers."""
    return _FOOTNOTE.sub("", _EMPHASIS.sub(r"\1", text.replace('"', "")))
