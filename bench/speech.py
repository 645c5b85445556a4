"""What a benchmark's members say: pieces with top-20 lists of the shape that language models send, drawn once.

The i-th most probable piece has a probability in proportion to i^-s, with s from 0.6 (undecided) to 4 (sure), and the
list holds 70 to 99 % of the mass. One token in twenty was sampled from outside its list, as servers report it.
"""

from __future__ import annotations

import math
from random import Random

from producers.backend import Piece

TOP_K = 20
_DRAWN = 512
_TEXT = (
    "the of and to in is that it for was on are as with they be at one have this from or had by hot but some what "
    "there we can out other were all your when up use word how said each which do their time if will way about "
    "many then them would write like so these her long make thing see him two has look more day could go come did "
    "my sound no most number who over know water than call first people may down side been now find generator "
    "function value returns object exception"
)
_WORDS = _TEXT.split()


def drawn_pieces(seed: int) -> tuple[Piece, ...]:
    """The pieces of one member; the same seed gives the same ones."""
    random = Random(seed)
    return tuple(_piece(random) for _ in range(_DRAWN))


def _piece(random: Random) -> Piece:
    words = [f" {word}" for word in random.sample(_WORDS, TOP_K + 1)]
    steepness = random.uniform(0.6, 4.0)
    shares = [(i + 1) ** -steepness for i in range(TOP_K)]
    mass = random.uniform(0.70, 0.99) / sum(shares)
    top = tuple((word.encode(), math.log(share * mass)) for word, share in zip(words, shares, strict=False))
    if random.random() < 0.05:
        return Piece(words[-1], logprob=top[-1][1] - 1.0, quality="real", top=top)
    (index,) = random.choices(range(TOP_K), shares)
    return Piece(words[index], logprob=top[index][1], quality="real", top=top)
