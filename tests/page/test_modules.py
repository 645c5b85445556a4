"""The page's pure modules, run in a browser and compared with Python."""

from __future__ import annotations

import re
from itertools import accumulate, pairwise
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page

from schemas.frames import MemberState
from tests.page.conftest import Open
from tests.support.project import ROOT

STATIC = ROOT / "consumers/web/static"
SPACE = " \t\n\r\x0b\x0c"
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), max_size=6)
WORDS = st.lists(st.sampled_from(["the", " sky", " is", " blue", ",", "\n", " é", " 🌊"]), max_size=25).map("".join)
browsing = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

# For a text that comes in pieces: the offset of the character at each byte, and the byte at each offset.
_OFFSETS = """async ([begun, pieces]) => {
    const { Answer } = await import("/static/record/answer.js");
    const answer = new Answer();
    answer.begin(begun);
    for (const piece of pieces) answer.append(piece);
    const bytes = answer.byteAt(answer.text.length);
    return {
        text: answer.text,
        offsets: Array.from({ length: bytes + 1 }, (_, byte) => answer.offsetAt(byte)),
        bytes: Array.from({ length: answer.text.length + 1 }, (_, offset) => answer.byteAt(offset)),
    };
}"""

# Adds tokens of frames and fetched tokens in any order; returns the token that covers each byte.
_TOKENS = """async ([known, length, tokens, fetched]) => {
    const { Answer } = await import("/static/record/answer.js");
    const answer = new Answer();
    answer.begin("x".repeat(known));
    answer.append("x".repeat(length - known));
    for (const token of tokens) answer.add(token);
    const unknown = answer.unknownIn(0, length) ?? null;
    for (const [found, from, to] of fetched) answer.learn(found, from, to);
    return {
        unknown, left: answer.unknownIn(0, length) ?? null,
        covering: Array.from({ length }, (_, byte) => answer.tokens[answer.tokenAt(byte)]?.start ?? null),
        starts: answer.tokens.map((token) => token.start),
    };
}"""

_DIFFERENCE = """async ([one, other]) => {
    const { difference, sharedLength, words } = await import("/static/record/difference.js");
    const found = difference(one, other);
    const same = found.parts.filter((part) => part.kind === "same").flatMap((part) => words(part.text));
    return { ...found, same, shared: sharedLength(one, other), words: [words(one), words(other)] };
}"""

# The words of a council's answer that comes in stretches, each with its decision; each frame contains some of them. The
# page has the text of the first frames when it receives their decisions.
_WORDS = """async ([frames, known]) => {
    const { Agreed } = await import("/static/record/agreed.js");
    const agreed = new Agreed();
    agreed.begin(frames.slice(0, known).map((frame) => frame.agreed).join(""));
    frames.forEach((frame, at) => agreed.take({ ...frame, agreed: at < known ? null : frame.agreed }));
    return {
        words: agreed.tokens.map(({ start, end, contest, isParted }) => [start, end, contest, isParted]),
        counted: agreed.contestedBefore(agreed.byteAt(agreed.text.length)),
    };
}"""


@pytest.fixture
def modules(open_page: Open) -> Page:
    """A page; the modules do not use its document."""
    found: Page = open_page()
    return found


@browsing
@given(begun=st.text(st.characters(exclude_categories=["Cs"]), max_size=600), pieces=TEXTS)
def test_offsets_and_bytes_of_the_page_agree_with_python(modules: Page, begun: str, pieces: list[str]) -> None:
    found = modules.evaluate(_OFFSETS, [begun, pieces])
    text = begun + "".join(pieces)
    assert found["text"] == text
    answer = text.lstrip(SPACE)
    lead = len(text) - len(answer)
    at_byte, of_letter = [], [0] * lead
    offset = lead
    for letter in answer:
        units, size = len(letter.encode("utf-16-le")) // 2, len(letter.encode())
        of_letter.append(len(at_byte))
        at_byte += [offset] * size
        offset += units
    at_byte.append(offset)
    assert found["offsets"] == at_byte
    # Offsets between two surrogates are not used.
    position = lead
    for letter, byte in zip(answer, of_letter[lead:], strict=True):
        assert found["bytes"][position] == byte
        position += len(letter.encode("utf-16-le")) // 2
    assert found["bytes"][: lead + 1] == [0] * (lead + 1)
    assert found["bytes"][-1] == len(answer.encode())


@browsing
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=30), data=st.data())
def test_every_byte_finds_its_token_in_whatever_order_tokens_came(
    modules: Page, sizes: list[int], data: st.DataObject
) -> None:
    """The page received only the end of a text; fetched tokens fill the beginning, in any pieces, some twice."""
    tokens, start = [], 0
    for size in sizes:
        tokens.append({"start": start, "end": start + size, "logprob": -1.0, "quality": "real"})
        start += size
    if not start:
        return
    seen = data.draw(st.integers(0, len(tokens)))
    known = data.draw(st.integers(0, start))
    later = tokens[seen:]
    cuts = sorted({0, start, *data.draw(st.lists(st.integers(0, start), max_size=4))})
    fetched = [
        [[token for token in tokens if token["start"] < to and token["end"] > at], at, to] for at, to in pairwise(cuts)
    ]
    found = modules.evaluate(_TOKENS, [known, start, later, fetched])
    covering: list[int | None] = []
    for token in tokens:
        covering += [token["start"]] * (token["end"] - token["start"])
    assert found["covering"] == covering
    assert found["starts"] == sorted({token["start"] for token in tokens if token["end"] > token["start"]})
    assert found["left"] is None
    first = min((token["start"] for token in later if token["start"] < known), default=known)
    assert found["unknown"] == ({"from": 0, "to": first} if first else None)


@browsing
@given(one=WORDS, other=WORDS)
def test_a_difference_is_correct_and_minimal(modules: Page, one: str, other: str) -> None:
    """Each text is its own and the common parts in order, and the common parts have the most words possible."""
    found = modules.evaluate(_DIFFERENCE, [one, other])
    parts = found["parts"]
    assert found["isAll"]
    assert "".join(part["text"] for part in parts if part["kind"] != "other") == one
    assert "".join(part["text"] for part in parts if part["kind"] != "one") == other
    assert all(part["text"] for part in parts)
    a, b = found["words"]
    assert ("".join(a), "".join(b)) == (one, other)
    assert len(found["same"]) == longest(a, b)
    shared = found["shared"]
    units = one.encode("utf-16-le")[: 2 * shared], other.encode("utf-16-le")[: 2 * shared]
    assert units[0] == units[1] == units[0].decode("utf-16-le").encode("utf-16-le")


STRETCHES = st.lists(
    st.tuples(st.sampled_from([" the", " sky", "s", "\n", " 天空是蓝", "🌊"]), st.sampled_from([None, 0.25, 0.5, 1.0])),
    min_size=1, max_size=40,
)  # fmt: skip


@browsing
@given(stretches=STRETCHES, sizes=st.lists(st.integers(1, 5), max_size=20), data=st.data())
def test_words_are_those_between_white_space_however_their_text_came(
    modules: Page, stretches: list[tuple[str, float | None]], sizes: list[int], data: st.DataObject
) -> None:
    """Each has the largest contest of the decisions on it; a word of more than 48 letters may be divided."""
    decisions: list[dict[str, object]] = []
    text = "A"
    for added, share in stretches:
        at = len(text.encode()) if decisions else 0
        text += added
        kind = "unanimous" if share is None else "certain"
        decisions.append({"at": at, "end": len(text.encode()), "kind": kind, "share": share})
    edges = [0, *(edge for edge in accumulate(sizes) if edge < len(decisions)), len(decisions)]
    frames = [
        {
            "agreed": text.encode()[decisions[first]["at"] : decisions[last - 1]["end"]].decode(),  # type: ignore[misc]
            "decisions": decisions[first:last],
            "final": last == len(decisions),
        }
        for first, last in pairwise(edges)
    ]
    found = modules.evaluate(_WORDS, [frames, data.draw(st.integers(0, len(frames)))])
    words = [
        (len(text[: word.start()].encode()), len(text[: word.end()].encode())) for word in re.finditer(r"\S+", text)
    ]
    longest_letters = max(len(word) for word in text.split())
    if longest_letters <= 48:
        assert [(start, end) for start, end, *_ in found["words"]] == words
    assert {start for start, _ in words} <= {start for start, *_ in found["words"]}
    for start, end, contest, is_parted in found["words"]:
        own = [one for one in decisions if one["at"] < end and one["end"] > start and one["share"] is not None]  # type: ignore[operator]
        assert contest == max((1 - one["share"] for one in own), default=0)  # type: ignore[operator]
        assert is_parted == bool(own)
    parted = [one for one in decisions if one["share"] is not None]
    assert found["counted"]["partings"] == len(parted)
    share = sum(one["end"] - one["at"] for one in parted) / len(text.encode())  # type: ignore[operator]
    assert found["counted"]["share"] == pytest.approx(share)


def test_ended_is_decided_in_one_module(modules: Page) -> None:
    """`ended` is true for finished and dropped members, and no other module compares a state with both."""
    found = modules.evaluate("""async () => {
        const { STATES, ended } = await import("/static/record/states.js");
        return Object.fromEntries(STATES.map((state) => [state, ended(state)]));
    }""")
    assert found == {state: state in ("finished", "dropped") for state in get_args(MemberState)}
    scripts = [path for path in STATIC.rglob("*.js") if path.name != "states.js"]
    assert len(scripts) > 30
    for path in scripts:
        lines = [line for line in path.read_text().splitlines() if "finished" in line and "dropped" in line]
        assert lines == [], path


def longest(a: list[str], b: list[str]) -> int:
    """The number of words in the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for index, other in enumerate(b):
            before, row[index + 1] = row[index + 1], before + 1 if word == other else max(row[index + 1], row[index])
    return row[-1]
