"""The effect of a change: an answer of a branch beside the answer of the same member in its parent.

    parent   The sky is blue because the air scatters light.
    branch   The sky was red because the air scatters light.
                    |<----->|
                    byte 8 to "because", from which on both are the same: they come together again

A common tail begins at a word. Where it ends both texts, one word is enough. Where one text goes on behind it, because
that answer has come further, three words are required: fewer are often the same by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from schemas.rules.what_if import WholeAnswers, shown_answer
from schemas.rules.words import WORD
from schemas.sessions import MAX_PREFIX_BYTES, MAX_TOKENS_LIMIT

_LEAST_WORDS = 3
# A longer answer than any of a council, which a recording may contain, is not searched for a common tail: it would take
# seconds. These words take half a second.
_MOST_WORDS = MAX_PREFIX_BYTES // 2 + MAX_TOKENS_LIMIT
# How many of the last words are compared, and the most characters of them: a text without spaces is one word.
_LAST_WORDS, _MOST_LAST_CHARS = 3, 120


class Effect(msgspec.Struct, frozen=True):
    """How the branch's answer differs from the parent's. Positions and lengths are bytes of UTF-8.

    `byte` is the beginning of the first character in which they differ (the end of the shorter one, where the other
    one goes on); None where they are equal. `reach_bytes` and `reach_words` are how much of the branch's answer is
    another text: from there to where both come together again, or to its end. `together_again` is (byte of the parent's
    answer, byte of the branch's answer) from which on both are the same, as far as both go; None where they stay apart,
    and for texts that are longer than any of a council. `last_words` are the parent's and the branch's, at most three.
    """

    byte: int | None
    reach_bytes: int
    reach_words: int
    together_again: tuple[int, int] | None
    last_words: tuple[str, str]
    last_words_differ: bool


def effects_of(parent: WholeAnswers, branch: WholeAnswers) -> dict[str, Effect]:
    """The effect on each member of the branch that its parent has too, by its display name."""
    before = dict(zip(parent.opening.names, map(shown_answer, parent.texts), strict=True))
    after = dict(zip(branch.opening.names, map(shown_answer, branch.texts), strict=True))
    return {name: effect_of(before[name], text) for name, text in after.items() if name in before}


def effect_of(parent: str, branch: str) -> Effect:
    """The effect, from both answers so far. White space at their ends does not count."""
    old, new = parent.rstrip(), branch.rstrip()
    last = last_words(old), last_words(new)
    differ = last[0].split() != last[1].split()
    if old == new:
        return Effect(None, 0, 0, None, last, differ)
    pairs = enumerate(zip(old, new, strict=False))
    at = next((index for index, (one, other) in pairs if one != other), min(len(old), len(new)))
    tails = _common_tail(old, new, at)
    end = tails[1] if tails else len(new)
    together = (_bytes_before(old, tails[0]), _bytes_before(new, tails[1])) if tails else None
    return Effect(
        byte=_bytes_before(new, at),
        reach_bytes=len(new[at:end].encode()),
        reach_words=len(WORD.findall(new[at:end])),
        together_again=together,
        last_words=last,
        last_words_differ=differ,
    )


def last_words(text: str) -> str:
    """The last words of a text, with single spaces between them."""
    # Whole texts are long, and the last words are short.
    words = text[-4 * _MOST_LAST_CHARS :].split()[-_LAST_WORDS:]
    return " ".join(words)[-_MOST_LAST_CHARS:]


def _bytes_before(text: str, index: int) -> int:
    return len(text[:index].encode())


class _Word(NamedTuple):
    """A word, the white space before it, and the index of its first character."""

    text: str
    space: str
    start: int


def _common_tail(old: str, new: str, at: int) -> tuple[int, int] | None:
    """The indexes of the first characters of the longest common tail behind `at`, up to which both texts are equal."""
    olds, news = _words_from(old, at), _words_from(new, at)
    if max(len(olds), len(news)) > _MOST_WORDS:
        return None
    most, found = 0, None
    for count, old_first, new_first in _tails(olds, news):
        if count > most:
            most, found = count, (olds[old_first].start, news[new_first].start)
    for count, new_first, old_first in _tails(news, olds):
        if count > most:
            most, found = count, (olds[old_first].start, news[new_first].start)
    return found


def _words_from(text: str, at: int) -> list[_Word]:
    """The words that begin at the character `at` or after it."""
    words, end = [], 0
    for found in WORD.finditer(text):
        if found.start() >= at:
            words.append(_Word(found[0], text[end : found.start()], found.start()))
        end = found.end()
    return words


def _tails(whole: Sequence[_Word], cut: Sequence[_Word]) -> list[tuple[int, int, int]]:
    """(count of words, first word in `whole`, first word in `cut`) of common tails: words that end `cut`, at every
    place of `whole` where the longest such tail stands. Inside a tail the white space is the same too.

    Knuth, Morris and Pratt's search, from the ends to the beginnings: both texts may have thousands of words.
    """
    sought, searched = [word[:2] for word in reversed(cut)], [word[:2] for word in reversed(whole)]
    back = _borders(sought)
    found, matched = [], 0
    for index, unit in enumerate(searched):
        # The first word of a tail may follow other white space: it is compared alone, and does not count as matched.
        while True:
            if matched < len(sought) and sought[matched][0] == unit[0]:
                count = matched + 1
                if index + 1 == count or count >= _LEAST_WORDS:
                    found.append((count, len(whole) - 1 - index, len(cut) - count))
            if matched < len(sought) and sought[matched] == unit:
                matched += 1
                break
            if not matched:
                break
            matched = back[matched - 1]
    return found


def _borders(units: Sequence[tuple[str, str]]) -> list[int]:
    """For each prefix of the units the length of its longest proper prefix that also ends it."""
    back, length = [0] * len(units), 0
    for index in range(1, len(units)):
        while length and units[index] != units[length]:
            length = back[length - 1]
        if units[index] == units[length]:
            length += 1
        back[index] = length
    return back
