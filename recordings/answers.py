"""The answers in a recording, as its frames showed them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from recordings.opening import replay_opening
from schemas.entries import UNDECODABLE
from schemas.errors import Malformed, Refused
from schemas.rules.what_if import WholeAnswers

# Sixteen times the longest answer of a council: comparing two of them takes a second.
_MOST_ANSWER_CHARS = 1024 * 1024


class _ShownMember(msgspec.Struct):
    text: str = ""


class _ShownFrame(msgspec.Struct):
    window_index: int
    members: list[_ShownMember]
    final: bool = False


def read_answers(path: Path) -> WholeAnswers:
    """The answers in the file `path`. Raises Refused where it is not a recording, was recorded without text, or lost
    windows; Malformed where it is damaged."""
    from recordings.reading import RecordingReader  # most processes read no recording, and do not need its libraries

    decoder = msgspec.json.Decoder(_ShownFrame)
    windows, ended = 0, False
    with RecordingReader(path) as reader:
        session, texts = reader.about.session, [""] * len(reader.about.members)
        if not reader.about.text:
            raise Refused("without_text", f"{path} was recorded without text, so it has no answers to continue.")
        for item in reader.items():
            if item.kind != "frame":
                continue
            try:
                frame = decoder.decode(item.raw)
            except UNDECODABLE as error:
                raise Malformed(f"a frame of {path} does not decode: {error}") from None
            if frame.window_index != windows or len(frame.members) != len(texts):
                raise Refused(
                    "incomplete_recording",
                    f"{path} lacks the window {windows}, so its answers are not whole: name another recording.",
                )
            windows, ended = windows + 1, frame.final
            for index, member in enumerate(frame.members):
                if member.text:
                    texts[index] += member.text
                if len(texts[index]) > _MOST_ANSWER_CHARS:
                    raise Malformed(f"{path} has an answer of more than {_MOST_ANSWER_CHARS} characters.")
    _, opening = replay_opening(path, session)
    return WholeAnswers(msgspec.structs.replace(opening, replay=None), texts, ended)
