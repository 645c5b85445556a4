"""A replay of frames as they are: what the web process reads of its members beside the frames."""

from __future__ import annotations

from typing import cast

import msgspec

from producers.replay.showing import FrameShow
from producers.replay.source import RecordedSource
from schemas.control import Progress, Steer, encode_progress
from schemas.entries import AnyEntry, Claim, Steered, Token, encode_entry
from schemas.frames import Frame
from schemas.sessions import Replay
from tests.support.frames import made_frame
from tests.support.sessions import opening_of


class OneFrame:
    """A recording with one frame."""

    def take_frames(self, to_ns: int, most: int) -> list[Frame]:
        return [made_frame(0, ())]


def test_a_steered_members_branch_and_steer_are_shown_with_its_next_seq() -> None:
    claim = "11-0"
    entries: list[AnyEntry] = [
        Claim(0, 1),
        Token(0, claim, 0, "answer", " The", 1, 1),
        Token(0, claim, 1, "answer", " sky", 1, 1),
        Steered(0, 1, 3, " sea", 2),
        Token(0, claim, 2, "answer", " was", 1, 1),
        Token(0, claim, 0, "answer", " is", 1, 1, branch=1),
    ]
    stream = [(f"{11 + place}-0", encode_entry(entry)) for place, entry in enumerate(entries)]
    opening = msgspec.structs.replace(opening_of("model"), replay=Replay("recorded", frames=True))
    show = FrameShow(opening, cast("RecordedSource", OneFrame()))
    (command,) = show.commands(stream, 1_000, 9)
    expected = encode_progress((Progress(claim, 1, False, None, 1, Steer(3, 7, " sea")),))
    assert expected in tuple(command)
