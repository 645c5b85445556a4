"""The members of a benchmark's sessions: their models' names, and the tokens that they write.

Tokens have top-20 lists of the shape that language models send. The i-th most probable piece has a probability in
proportion to i^-s, with s from 0.6 (undecided) to 4 (sure), and the list contains 70 to 99 % of the probability. One
token in twenty is not in its list, as servers report it of a sampled token.
"""

from __future__ import annotations

import math
from random import Random

from producers.backend import Piece
from schemas.entries import Token, pack_top

TOP_K = 20
PROMPT = "How long does it take?"
_DRAWN = 512
_TEXT = (
    "the of and to in is that it for was on are as with they be at one have this from or had by hot but some what "
    "there we can out other were all your when up use word how said each which do their time if will way about "
    "many then them would write like so these her long make thing see him two has look more day could go come did "
    "my sound no most number who over know water than call first people may down side been now find generator "
    "function value returns object exception"
)
_WORDS = _TEXT.split()


def models_of(members: int) -> tuple[str, ...]:
    """The model name of each member."""
    return tuple(f"bench:member-{number}" for number in range(1, members + 1))


def drawn_pieces(seed: int) -> tuple[Piece, ...]:
    """512 tokens of one member; the same seed gives the same ones."""
    random = Random(seed)
    return tuple(_piece(random) for _ in range(_DRAWN))


def token_of(piece: Piece, member: int, claim: str, seq: int, at_ns: int) -> Token:
    """The token's entry, which arrives and is written at `at_ns`."""
    top = pack_top(list(piece.top))
    return Token(member, claim, seq, "answer", piece.text, at_ns, at_ns, piece.logprob, piece.quality, b"", top)


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
