"""What if: the beginning of a branch's answers, from an answer of its parent session and a text that is put into it.

    answer     The sky is blue today.      --word 3 --say was
    prefix     The sky was                 all members of the branch continue it

A byte is an exact place: the text before it stays as it is. A word is counted from 1, and the text that is put there is
a word of its own; where it begins with white space, that replaces the white space before the place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from schemas.errors import Refused
from schemas.rules.arguments import RequestChanges
from schemas.rules.choice import full_name, shortened
from schemas.rules.lanes import leading_space_dropped
from schemas.rules.words import WORD
from schemas.sessions import MEMBER_OPTIONS, WITHOUT_TEXT, MemberSpec, Opening, Parent, SessionRequest

# The longest word that a parent's description repeats; in a text without spaces a word has no end.
_MOST_INSTEAD_CHARS = 64


class Change(msgspec.Struct, frozen=True):
    """The text `say` is put at the byte `at` of an answer, or in the place of its word number `word`, from 1; one of
    the two is given. `member` is the index of the answer's member; None: the first one whose answer has that place."""

    say: str
    at: int | None = None
    word: int | None = None
    member: int | None = None


class WholeAnswers(msgspec.Struct, frozen=True):
    """A session's opening, and each member's whole answer so far. `ended`: no answer changes any more."""

    opening: Opening
    texts: Sequence[str]
    ended: bool


class BranchStart(msgspec.Struct, frozen=True):
    """The beginning of the answers, which is the parent's answer up to the byte `parent.byte`, and then
    `parent.word`."""

    prefix: str
    parent: Parent


def branch_of(answers: WholeAnswers, change: Change) -> BranchStart:
    """The branch of the session with these answers.

    Raises Refused where both places or none are given, for a place that no answer has (the end of one is a place), for
    a text that is empty or not valid Unicode, and for the replay of a recording without text.
    """
    if answers.opening.replay is not None and answers.opening.prompt == WITHOUT_TEXT:
        raise Refused(
            "without_text", "The session was recorded without text, so it has no answers to continue.", status=409
        )
    _check_say(change.say)
    texts = [shown_answer(text) for text in answers.texts]
    text, place = _placed(texts, answers.opening.names, change)
    say = change.say
    before = text[:place]
    if change.word is not None and say[0].isspace():
        before = before.rstrip()
    elif change.word is not None and before and not before[-1].isspace():
        say = f" {say}"  # behind the last word
    if not before and not (say := shown_answer(say)):
        raise Refused(
            "bad_say",
            "The text has only white space, and an answer does not begin with that: write a word.",
            status=409,
        )
    instead = WORD.match(text, place + _space_at(text, place))
    there = instead[0][:_MOST_INSTEAD_CHARS] if instead else ""
    return BranchStart(before + say, Parent(answers.opening.session, len(before.encode()), say, there))


def shown_answer(text: str) -> str:
    """An answer from its first byte that is not ASCII white space, from which positions count."""
    return leading_space_dropped(text.encode()).decode()


def _check_say(say: str) -> None:
    if not say:
        raise Refused("bad_say", "The text is empty: write what is to stand at that place.")
    try:
        say.encode()
    except UnicodeEncodeError:
        raise Refused("bad_say", "The text contains characters that are not valid Unicode: remove them.") from None


def _placed(texts: Sequence[str], names: Sequence[str], change: Change) -> tuple[str, int]:
    """(the text, the index of the character before which the change begins)."""
    number = change.at if change.word is None else change.word
    if number is None or (change.at is not None and change.word is not None):
        raise Refused("bad_place", "Give one place: a byte of the answer (at), or the number of a word (word).")
    is_byte = change.word is None
    indexes = range(len(texts)) if change.member is None else [change.member]
    sizes = {index: len(texts[index].encode()) if is_byte else len(WORD.findall(texts[index])) for index in indexes}
    first = 0 if is_byte else 1
    # The end of an answer is a place, but another member's text may have that place inside.
    for after_end in (0, 1):
        for index, size in sizes.items():
            if first <= number < first + size + after_end:
                return texts[index], _byte_place(texts[index], number) if is_byte else _word_place(texts[index], number)
    longest = max(sizes, key=lambda index: (sizes[index], -index))
    name, unit = ("at", "byte") if is_byte else ("word", "word")
    whose = f"the longest answer ({names[longest]!r})" if change.member is None else f"the answer of {names[longest]!r}"
    size = sizes[longest]
    raise Refused(
        f"bad_{name}",
        f"{name} is {shortened(str(number))}, and {whose} has {size} {unit}{'' if size == 1 else 's'}: give a number "
        f"from {first} to {first + size}.",
        status=404,
    )


def _byte_place(text: str, byte: int) -> int:
    """The index of the character that contains the byte, or of the end."""
    return len(text.encode()[:byte].decode(errors="ignore"))


def _word_place(text: str, number: int) -> int:
    """The index of the first character of the word, or of the end."""
    starts = [found.start() for found in WORD.finditer(text)]
    return starts[number - 1] if number <= len(starts) else len(text)


def _space_at(text: str, place: int) -> int:
    rest = text[place:]
    return len(rest) - len(rest.lstrip())


def request_of(
    opening: Opening, branch: BranchStart, served: Collection[str], given: RequestChanges
) -> tuple[SessionRequest, tuple[str, ...]]:
    """(the request that opens the branch of the session `opening`, a sentence for each member that is left out).

    The branch has the prompt, the members and the options of its parent, but for those in `given`, which have the types
    of SessionRequest. Where these name no models, members are left out whose model is not among those `served`: a
    recording may be of another machine. Raises Refused where none is left.
    """
    warnings: tuple[str, ...] = ()
    values: dict[str, Any] = {
        "max_tokens": opening.sampling.max_tokens,
        "temperature": opening.sampling.temperature,
        "seed": opening.sampling.seed,
        "weighting": opening.weighting,
        "sync": opening.sync,
    }
    if not given.get("models"):
        kept = [index for index, member in enumerate(opening.members) if full_name(member.model, served) in served]
        left_out = [index for index in range(len(opening.members)) if index not in kept]
        if not kept:
            models = ", ".join(dict.fromkeys(member.model for member in opening.members))
            raise Refused(
                "no_members", f"No model of that session is served here ({models}): name members that are.", status=409
            )
        values["models"] = tuple(_spec(opening, index) for index in kept)
        values["weights"] = {opening.names[index]: opening.members[index].weight for index in kept}
        warnings = tuple(
            f"{opening.names[index]} is left out: its model {opening.members[index].model!r} is not served here."
            for index in left_out
        )
    request = SessionRequest(
        **values | dict(given), prompt=opening.prompt, system=opening.system, history=opening.history,
        prefix=branch.prefix, parent=branch.parent,
    )  # fmt: skip
    return request, warnings


def _spec(opening: Opening, index: int) -> MemberSpec:
    """The member as a request describes it: with the options that are not those of the session."""
    member = opening.members[index]
    own, usual = opening.sampling_of(index), opening.sampling
    options = {name: getattr(own, name) for name in MEMBER_OPTIONS if getattr(own, name) != getattr(usual, name)}
    return MemberSpec(member.model, member.name, system=member.system, **options)
