"""Members with different tokenizers and speeds, as stories: which members are aligned, and what is compared.

The oracle computes every story as well, with the same result.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.checkpoint import dump
from aggregator.core.session import Session
from producers.servers.pieces import text_shares
from schemas.frames import InterferenceFrame
from schemas.sessions import Limits, Opening
from tests.aggregator.core.test_law import unhurried
from tests.support.story import Story

# Words, combining characters, CJK, an emoji of several code points, white space within and in front.
TEXTS = (
    "The sky is blue, the sea is blue.",
    "e\u0301galite\u0301 et fraternite\u0301",
    "日本語の文章です。",
    "so \U0001f469\u200d\U0001f680 flies \U0001f642!",
    " \n leading,  double  spaces\n\n",
    "again and again and again and again",
)


def cuts(random: Random, text: str) -> list[tuple[str, bytes]]:
    """The text as one tokenizer cuts it, at words, characters or any bytes: the text of each token, and its own bytes.
    Some servers send a split character with its last token and leave the other tokens out."""
    data = text.encode()
    kind = random.choice(("bytes", "characters", "words"))
    inner = sorted({random.randrange(1, len(data)) for _ in range(random.randrange(len(data)))})
    if kind != "bytes":
        inner = [len(text[:end].encode()) for end in range(1, len(text))]
    if kind == "words":
        inner = [at for at in inner if data[at : at + 1] == b" "]
    pieces = [data[start:end] for start, end in pairwise((0, *inner, len(data)))]
    shares = text_shares(text, pieces) if len(pieces) > 1 else [text]
    sends_all = random.random() < 0.5
    return [(share, piece) for share, piece in zip(shares, pieces, strict=True) if share or sends_all]


def same_text(random: Random) -> Story:
    """Two to four members write one text, each with its own cuts, in any order of their tokens. Some send no lists,
    some think before they answer, some end early, and all send a special token without any bytes now and then."""
    text, members = random.choice(TEXTS), random.randint(2, 4)
    drawn = [cuts(random, text) for _ in range(members)]
    has_lists = [random.random() < 0.7 for _ in range(members)]
    story = Story(members)
    for member in range(members):
        if random.random() < 0.3:
            story.write(member, "Hm. ", lane="thinking")
    left = {member: drawn[member][: random.choice((None, None, 3))] for member in range(members)}
    while left:
        story.now_ms += random.choice((0, 5, 17, 50))
        member = random.choice(list(left))
        if random.random() < 0.1:
            story.write(member, "", top=[(b"", -0.1), (b"<", -3.0)])
        share, piece = left[member].pop(0)
        story.write(member, share, piece, top=None if has_lists[member] else [])
        if not left[member]:
            story.finish(member)
            del left[member]
    return story


@settings(unhurried, max_examples=150)
@given(st.integers(0, 2**32))
def test_members_that_write_the_same_text_agree_at_every_frontier_with_any_tokenizers(seed: int) -> None:
    """Words, characters or any bytes; all are certain of what they write, or send no lists."""
    frames = same_text(Random(seed)).frames()
    for frame in frames:
        assert frame.measures.agreement in (None, 1.0)
        assert frame.alignment.compares in (None, "next")
        assert frame.measures.jsd in (None, 0.0)
        assert frame.measures.di_span in (None, 0.0)
        assert frame.interference.kind != "destructive"


def test_the_law_above_covers_many_frames_of_all_kinds() -> None:
    """Of a hundred such stories most have frames in which two or more are compared, by lists and by text."""
    stories = [same_text(Random(seed)).frames() for seed in range(100)]
    sources = [{frame.measures.agreement_source for frame in frames} for frames in stories]
    assert sum(bool(found - {None}) for found in sources) > 60
    assert {"logprobs", "mixed", "text"} <= set().union(*sources)


def test_a_member_that_begins_a_little_later_is_compared_from_the_first_byte_on() -> None:
    """Both write the same, 10 tokens/s; the second begins 300 ms later. Without the wait x would stay ahead of it."""
    story = Story(2)
    for step in range(40):
        story.write(0, "word ")
        if step >= 3:
            story.write(1, "word ")
        story.now_ms += 100
    frames = story.frames()
    compared = [frame.window_index for frame in frames if frame.measures.agreement is not None]
    first = next(frame.window_index for frame in frames if frame.members[1].text)
    assert compared == list(range(first, len(frames)))
    assert frames[-1].interference.resonance


def test_the_frontier_waits_for_a_limited_time_for_members_that_have_not_begun() -> None:
    """Nothing is written any more when the wait ends: time alone sets the frontier."""
    story = Story(3, limits=Limits(frontier_waits_ms=500))
    for _ in range(3):
        for member in (0, 1):
            story.write(member, "word ")
        story.now_ms += 50
    frames = story.frames(windows=60)
    assert [frame.window_index for frame in frames if frame.alignment.frontier_bytes is not None] == list(range(29, 60))
    assert frames[-1].measures.agreement == 1.0


@pytest.mark.parametrize("why", ["thinks", "waits for memory", "has ended"])
def test_the_frontier_does_not_wait_for_a_member_that_is_not_about_to_answer(why: str) -> None:
    story = Story(3)
    if why == "thinks":
        story.write(2, "Hm.", lane="thinking")
    elif why == "waits for memory":
        story.wait_for_memory(2)
    else:
        story.finish(2)
    for member in (0, 1):
        story.write(member, "word ")
    (frame,) = story.frames()
    assert frame.measures.agreement == 1.0


def test_a_member_alone_behind_the_frontier_is_not_compared() -> None:
    """Members 0 and 1 agree and end; member 2 is behind them: no member is aligned, and nothing resonates."""
    story = Story(3, limits=Limits(frontier_waits_ms=1))
    for step in range(60):
        for member in (0, 1):
            story.write(member, "word ")
        if step > 1:
            story.write(2, "x")
        story.now_ms += 20
    story.finish(0)
    story.finish(1)
    for _ in range(20):
        story.now_ms += 20
        story.write(2, "x")
    frames = story.frames()
    alone = [frame for frame in frames if frame.mode == "single"]
    assert any(frame.interference.resonance for frame in frames if frame.mode == "free")
    assert alone
    for frame in alone:
        measures, alignment, interference = frame.measures, frame.alignment, frame.interference
        assert (measures.agreement, alignment.compares) == (None, None)
        assert (measures.diversity_index, measures.di_source) == (0.5, "fallback")
        assert interference == InterferenceFrame(wave=frame.energy)
        assert alignment.frontier_bytes == alone[0].alignment.frontier_bytes


def test_a_list_about_a_later_position_measures_nothing_at_this_one() -> None:
    """A chunk of several tokens, sent as the last of them: its list has the pieces that could replace "!" alone."""
    story = Story(2)
    for _ in range(2):
        story.write(0, "Hello", top=[(b"Hello", -0.1), (b"Hi", -2.4)])
        story.write(1, "Hello world!", b"!", top=[(b"!", -0.5), (b".", -0.9)])
    (frame,) = story.frames()
    measures = frame.measures
    assert (measures.di_source, measures.coverage, measures.agreement_source) == ("fallback", 0.5, "text")


def test_the_checkpoint_of_a_member_that_is_far_ahead_is_small() -> None:
    """One member has stopped, the other writes on. The checkpoint has at most 40 bytes for each unaligned token."""
    story = Story(2)
    story.write(0, "word ")
    for _ in range(4_000):
        story.write(1, "word ")
    frames_bytes = checkpoint_bytes(story)
    assert frames_bytes < 40 * 4_000


def checkpoint_bytes(story: Story) -> int:
    opening = msgspec.msgpack.decode(story.stream[0][1], type=Opening)
    session = Session(opening, story.stream[0][0])
    session.close(story.stream[1:])
    return len(dump(session))
