"""The law: frames are a pure function of the token stream. The fast core against the slow oracle, on random streams.

token stream --+--> replayed() -----------------------------+
               +--> replayed(), dumped and loaded each window +--> the same frames
               +--> oracle_frames() ------------------------+
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings

from aggregator.replay import replayed
from schemas.frames import Frame, named
from tests.oracle import Stream, oracle_frames
from tests.streams import Recorded, recorded

# Numbers in frames are rounded to 1e-9, so two that agree may still differ by one unit, and by the sums' last digits.
NEAR = 2e-9
examples = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def core_frames(stream: Stream, windows: int) -> list[Frame]:
    return [closed.frame for closed in replayed(stream, windows)]


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Where two values differ: floats by more than NEAR, all else at all."""
    if isinstance(ours, float) and isinstance(theirs, float):
        if not abs(ours - theirs) <= NEAR:
            yield f"{path}: {ours!r} and {theirs!r}"
    elif isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key in ours:
            yield from differences(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{number}]")
    elif type(ours) is not type(theirs) or ours != theirs:
        yield f"{path}: {ours!r} and {theirs!r}"


def assert_law(stream: Stream, windows: int) -> list[Frame]:
    """The core's frames, once they are known to be the oracle's."""
    ours, theirs = core_frames(stream, windows), oracle_frames(stream, windows)
    for index, (frame, expected) in enumerate(zip(ours, theirs, strict=False)):
        assert frame.version == expected.version
        assert not list(differences(named(frame), named(expected), f"frame {index}"))
    assert len(ours) == len(theirs)
    return ours


@settings(examples, max_examples=300)
@given(recorded())
def test_core_and_oracle_agree_on_every_frame(session: Recorded) -> None:
    assert_law(session.stream, session.windows)
