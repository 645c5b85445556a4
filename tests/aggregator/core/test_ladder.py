"""When memory runs out, a session falls one tier at a time and keeps its heaviest members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.ladder import members_to_drop
from aggregator.core.replay import replayed
from schemas.entries import Claim, Starved, encode_entry
from schemas.frames import Frame
from schemas.sessions import ENTRY_VERSION, Member, Opening, Rung

LADDER = (Rung("mid", 4), Rung("low", 2))
STARVED = "big at its server has no memory for 9.0 GB"


def frames_of(weights: Sequence[float], starving: Sequence[int], ladder: tuple[Rung, ...] = LADDER) -> list[Frame]:
    """The frames of a session of the high tier; in window n there is no memory for the n-th of `starving`."""
    members = tuple(Member(f"m{index}", weight) for index, weight in enumerate(weights))
    stream = [("1000-0", encode_entry(Opening(ENTRY_VERSION, "s1", "Why?", members, tier="high", ladder=ladder)))]
    stream += [(f"1000-{index + 1}", encode_entry(Claim(index, 0))) for index in range(len(weights))]
    for number, index in enumerate(starving):
        stream.append((f"{1_001 + number * 17}-0", encode_entry(Starved(index, f"1000-{index + 1}", 0, STARVED))))
    return [closed.frame for closed in replayed(stream, len(starving))]


def running(frame: Frame) -> str:
    return " ".join(member.model for member in frame.members if member.state != "dropped")


@pytest.mark.parametrize(
    ("weights", "starving", "stays"),
    [
        # Six of equal weight: the starved one is dropped, and the last, since the mid tier runs four.
        ([1, 1, 1, 1, 1, 1], [1], ["mid: m0 m2 m3 m4"]),
        # Heavier than the others: they make room, and it tries again.
        ([1, 5, 1, 1, 1, 1], [1], ["mid: m0 m1 m2 m3"]),
        ([3, 1, 2, 1, 1, 1], [3], ["mid: m0 m1 m2 m4"]),
        # The second time it is dropped alone, and the tier stays.
        ([1, 5, 1, 1, 1, 1], [1, 1], ["mid: m0 m1 m2 m3", "mid: m0 m2 m3"]),
        # Each fall is one tier.
        ([1, 1, 1, 1, 1, 1], [1, 0], ["mid: m0 m2 m3 m4", "low: m2 m3"]),
        # At the lowest tier one is dropped each time; the last one has its own reason.
        ([1, 2], [1, 1], ["mid: m1", "mid: "]),
        # Four run in the mid tier already, so only one makes room.
        ([1, 1, 1, 4], [3], ["mid: m0 m1 m3"]),
    ],
)
def test_the_session_falls_a_tier_and_keeps_its_heaviest(
    weights: list[float], starving: list[int], stays: list[str]
) -> None:
    frames = frames_of(weights, starving)
    assert [f"{frame.tier}: {running(frame)}" for frame in frames] == stays


def test_every_dropped_member_has_its_reason_and_the_frames_name_the_tier() -> None:
    (frame,) = frames_of([1, 5, 1], [1])
    assert (frame.tier, frame.members[1].state) == ("mid", "loading")
    assert frame.members[2].reason == "it made room: no memory for m1; the session fell to the mid tier"
    (frame,) = frames_of([1, 1], [0])
    assert frame.members[0].reason == f"{STARVED}; the session fell to the mid tier"
    (frame,) = frames_of([1], [0])
    assert (frame.members[0].reason, frame.tier, frame.final) == (STARVED, "high", True)
    assert frames_of([1, 1], [0], ())[0].members[0].reason == STARVED


def test_where_room_does_not_help_the_starved_member_is_dropped_first_however_heavy() -> None:
    assert members_to_drop({0: 1.0, 1: 5.0, 2: 1.0}, 1, Rung("mid", 4), room_helps=False) == [1]
    assert members_to_drop({0: 1.0, 1: 5.0, 2: 1.0}, 1, Rung("low", 1), room_helps=False) == [1, 2]
    assert members_to_drop({0: 1.0, 1: 5.0, 2: 1.0}, 1, Rung("mid", 4)) == [2]


@given(st.dictionaries(st.integers(0, 5), st.sampled_from([0.0, 1.0, 2.5]), min_size=2), st.data())
def test_at_least_one_is_dropped_and_none_is_heavier_than_one_that_stays(
    weights: Mapping[int, float], data: st.DataObject
) -> None:
    starved = data.draw(st.sampled_from(sorted(weights)))
    most = data.draw(st.integers(1, 6))
    dropped = members_to_drop(weights, starved, Rung("low", most))
    kept = weights.keys() - set(dropped)
    assert 1 <= len(kept) == min(most, len(weights) - 1)
    assert max(weights[index] for index in dropped) <= min(weights[index] for index in kept)
    if starved not in dropped:
        assert all(weights[index] < weights[starved] for index in dropped)
