"""The mixture: what the council as a whole gives to the text that it has agreed on, and to other texts in its place.

    agreed     | sky| is|               the span at 3 is " sky", 4 bytes: the fewest that a voter's token has left there
    member 0   | sky| is|               q: " sky" .5  " sea" .2  " skin" .1      group " sky" .5, " sea" .2, " ski" .1
    member 1   | sky is|                q: " sky is" .7  " seaside" .1           group " sky" .7, " sea" .1
    mixture    " sky" .6 = the share    " sea" .15      " skin" .05              of two members with the same weight

Texts that begin with the same bytes, as many as the span has, completed to whole characters, are one group: so members
are added up, however their tokenizers cut. A group is shown as the longest beginning of all its texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.numbers.arithmetic import normalised
from aggregator.numbers.deciding import Voter
from aggregator.numbers.span import span_of
from schemas.frames import MixtureSpan, MixtureText
from schemas.rules.words import character_end, shared_beginning

# More bytes than any piece has.
_WHOLE = 1 << 31


def span_bytes(agreed: bytes, voters: Sequence[Voter]) -> int:
    """The length of the first span of the agreed text, which may be past its end: the fewest bytes that a token of
    these voters, one or more of whom have one there, has left, completed to whole characters."""
    return character_end(agreed, min([voter.left for voter in voters if voter.left]))


def mixture_span(start: int, text: bytes, voters: Sequence[Voter], most: int) -> MixtureSpan:
    """The mixture of the voters, one or more, at the byte `start`, at which the agreed `text` stands. top has up to
    `most` texts.

    Voters with the weight 0 beside others, and those without a list, do not count; without any other the share is None.
    """
    weights = normalised([voter.weight for voter in voters])
    counted = [(v, w) for v, w in zip(voters, weights, strict=True) if w and v.proposal.has_logprobs]
    if not counted:
        return MixtureSpan(start, start + len(text))
    mixed, shown = {text: 0.0}, {text: text}
    for (voter, _), weight in zip(counted, normalised([w for _, w in counted]), strict=True):
        for following, p in span_of(voter.proposal, voter.offset, _WHOLE).probabilities.items():
            if voter.is_first and not following:
                continue  # White space, which is dropped there: what follows it is not known.
            group = following[: character_end(following, len(text))]
            mixed[group] = mixed.get(group, 0.0) + weight * p
            known = shown.setdefault(group, following)
            if not following.startswith(known):
                shown[group] = shared_beginning([known, following])
    return MixtureSpan(start, start + len(text), round(min(1.0, mixed[text]), 9), _likeliest(mixed, shown, most))


def _likeliest(mixed: dict[bytes, float], shown: dict[bytes, bytes], most: int) -> tuple[MixtureText, ...]:
    """The likeliest groups, as they are shown; of equal ones the first text in the order of code points."""
    shares: dict[str, float] = {}
    for group, p in mixed.items():
        # Different bytes that are not text are shown as one stand-in.
        text = shown[group].decode(errors="replace")
        shares[text] = shares.get(text, 0.0) + p
    ranked = sorted((-round(min(1.0, p), 9), text) for text, p in shares.items())
    return tuple([MixtureText(text, -share) for share, text in ranked[:most] if share])
