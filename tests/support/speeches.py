"""The texts that members write, and the lists that a server sends with them. Each member writes one text with its own
tokenizer, and many write the same text for a while.

    one text     the | cat | sat          words      members with different tokenizers reach the same positions: they
                 t h e _ c a t _ s a      characters are aligned, agree, part, and are compared
                 th|e_|ca|t_|sa|t         pairs of bytes, of which a character may need two
"""

from __future__ import annotations

import codecs
import math
import re
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st


def often(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """The usual value, five times in six."""
    return st.sampled_from((usual,) * 5 * len(others) + others)


TEXTS = ("the cat sat on 日本, é and 🙂! ", "the cat sat \tin a\u00a0hat ", "a dog ran off\n\n", "日本語は the é")
CUTS = {"words": r"\s*\S+|\s+", "characters": r".", "pairs of bytes": r"..?", "triples of bytes": r"..?.?"}
STAND_IN = "\ufffd".encode()
SURE, HALF, FIFTH = 0.0, math.log(0.5), math.log(0.2)


@dataclass
class Speech:
    """A member's text in the cuts of its tokenizer, repeated without an end."""

    cuts: list[bytes]
    next: int = 0
    decoder: codecs.IncrementalDecoder = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    def ahead(self) -> bytes:
        """The next bytes of it, eight cuts."""
        return b"".join((self.cuts * 2)[self.next % len(self.cuts) :][:8])

    def next_cut(self) -> tuple[bytes, str]:
        """The next cut, and the text that it completes."""
        cut = self.cuts[self.next % len(self.cuts)]
        self.next += 1
        return cut, self.decoder.decode(cut)


def cuts_of(text: bytes, how: str) -> list[bytes]:
    """The text as one tokenizer cuts it. A tokenizer of characters drops incomplete ones first."""
    if how.endswith("bytes"):
        return re.findall(CUTS[how].encode(), text, re.DOTALL)
    return [cut.encode() for cut in re.findall(CUTS[how], text.decode(errors="ignore"), re.DOTALL)]


@st.composite
def speeches(draw: st.DrawFn) -> Speech:
    """Half of the members write the first text; some part from it after a while, some begin with white space."""
    common, own = TEXTS[0], draw(st.sampled_from(TEXTS))
    parts_at = draw(st.sampled_from((len(common), len(common), 2, 4, 9)))
    text = draw(often("", " ", "\n  ")) + common[:parts_at] + own[parts_at:]
    return Speech(cuts_of(text.encode(), draw(st.sampled_from(tuple(CUTS)))))


def top_around(kind: str, drawn: bytes, rivals: list[bytes]) -> list[tuple[bytes, float]]:
    """A list as a server may send it, of which `drawn` is the piece that was sampled."""
    first, second, third = (rivals * 3)[:3]
    return {
        "sure": [(drawn, SURE)],
        "nearly sure": [(drawn, -1e-4), (first, -9.5), (second, -9999.0)],
        "one": [(drawn, HALF)],
        "halves": [(drawn, HALF), (first, HALF)],
        "fifths": [(piece, FIFTH) for piece in dict.fromkeys((drawn, first, second, third, b" the", b"a"))][:5],
        "marks": [(drawn, HALF), (b"", FIFTH), (STAND_IN, FIFTH)],
        "unsorted, without it": [(first, -2.3), (second, -0.7), (third, -math.inf), (b" on", 0.3)],
        "twice": [(drawn, -1.6), (first, HALF), (drawn, FIFTH)],
        "too much": [(drawn, -0.1), (first, -0.2), (b"", -0.3)],
        "none": [],
        "twenty": [(drawn, -0.7), *((b" w%d" % number, -2.0 - 0.1 * number) for number in range(19))],
        "two hundred": [(first, -0.9), *((b"%d" % number, -3.0 - 0.02 * number) for number in range(199))],
    }[kind]


# Certain lists more often: so that members agree, or differ by more than what the lists leave out.
TOP_KINDS = (
    *("sure", "nearly sure", "halves", "fifths") * 2,
    *("one", "marks", "unsorted, without it", "twice", "too much", "none", "twenty", "two hundred"),
)
