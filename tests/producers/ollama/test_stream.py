"""The pure half of the Ollama backend: from bytes to chunks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.backend import Chunk, Ending, Piece
from producers.ollama.stream import OllamaStream
from producers.servers.faults import ServerFault
from producers.servers.lines import MAX_LINE_BYTES
from tests.support.ollama.lines import HALF, SAID, lines_of

PATHS = ["/api/chat", "/api/generate"]
HALF_BYTES = HALF.encode()


def outcome(parts: Sequence[bytes], *, thinks: bool = False) -> tuple[list[Chunk], str]:
    """(the chunks of a stream that comes in these parts, how it ends)."""
    stream = OllamaStream(20, thinks=thinks)
    chunks: list[Chunk] = []
    try:
        for part in parts:
            chunks += stream.feed(part)
        for item in stream.end():
            if isinstance(item, Ending):
                return chunks, item.reason
            chunks.append(item)
        raise AssertionError("no ending")
    except ServerFault as fault:
        return chunks, str(fault)


def pieces_of(behaviour: str, path: str = "/api/chat", *, thinks: bool = False) -> list[Piece]:
    chunks, _ = outcome(lines_of(behaviour, path), thinks=thinks)
    return [piece for chunk in chunks for piece in chunk.pieces]


# How many tokens the prompt has


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("count", "tokens"),
    [("29", 29), ("10000000", 10_000_000), *((nonsense, None) for nonsense in (
        "0", "-1", "29.5", '"29"', "true", "null", "{}", "10000001", "1e400", "9" * 400,
    ))],
)  # fmt: skip
def test_the_tokens_of_a_prompt_are_those_that_ollama_reports_if_they_can_be(
    path: str, count: str, tokens: int | None
) -> None:
    *begun, last = lines_of("good", path)
    last = re.sub(rb'"prompt_eval_count": ?12', f'"prompt_eval_count":{count}'.encode(), last)
    assert f":{count}".encode() in last
    stream = OllamaStream(20)
    items = [item for part in (*begun, last) for item in stream.feed(part)] + [*stream.end()]
    assert items[-1] == Ending("stop", prompt_tokens=tokens)


# Pieces


@pytest.mark.parametrize("path", PATHS)
def test_both_paths_have_the_same_pieces(path: str) -> None:
    for behaviour in ("good", "several_entries", "split_character", "thinking", "doubtful_logprobs"):
        assert pieces_of(behaviour, path) == pieces_of(behaviour)


def test_several_entries_of_a_chunk_share_its_text() -> None:
    chunks, _ = outcome(lines_of("several_entries"))
    first, second = ([(piece.text, piece.piece, piece.quality) for piece in chunk.pieces] for chunk in chunks)
    assert first == [("One", b"", "real"), (" fine", b"", "real"), (" day", b"", "real")]
    assert second == [("", b" cle", "real"), ("cleaned", b"aned\n", "real")]


def test_a_split_character_is_shown_whole_and_each_of_its_tokens_is_measured() -> None:
    """Both halves in one chunk, or the first one in a chunk without text."""
    pieces = pieces_of("split_character")
    assert [(piece.text, piece.piece) for piece in pieces] == [
        ("", b" "),
        (" é", HALF_BYTES),
        ("", HALF_BYTES),
        ("ü", HALF_BYTES),
    ]
    assert {piece.quality for piece in pieces} == {"real"}


@pytest.mark.parametrize(("behaviour", "name"), [("split_character", HALF_BYTES), ("nameless_tokens", b"")])
def test_alternatives_that_share_a_name_all_count(behaviour: str, name: bytes) -> None:
    """Half characters all have the same name: their identity is lost, their probability is not."""
    tops = [piece.top for piece in pieces_of(behaviour)]
    assert ((name, -0.5), (name, -1.5), (b"e", -3.0)) in tops


def test_thinking_is_a_lane_of_its_own() -> None:
    pieces = pieces_of("thinking", thinks=True)
    assert [(piece.lane, piece.text) for piece in pieces] == [
        ("thinking", ""),
        ("thinking", "Hm"),
        ("thinking", ","),
        ("thinking", " so"),
        ("thinking", ""),
        ("thinking", "!"),
        ("answer", "Yes"),
        ("answer", "."),
    ]
    assert [piece.quality for piece in pieces] == ["real"] * 5 + ["missing"] + ["real"] * 2


def test_entries_before_any_text_are_thinking_if_the_model_thinks() -> None:
    assert pieces_of("thinking", thinks=True)[0].lane == "thinking"
    assert pieces_of("thinking", thinks=False)[0].lane == "answer"


def test_the_thinking_of_imitating_servers_is_found() -> None:
    assert [(piece.lane, piece.text) for piece in pieces_of("other_names")] == [("thinking", "a"), ("thinking", "b")]


def test_only_what_was_measured_is_called_real() -> None:
    assert [(piece.text, piece.quality, piece.logprob) for piece in pieces_of("doubtful_logprobs")] == [
        ("a", "placeholder", None),
        ("b", "placeholder", None),
        ("c", "missing", None),
        ("d", "real", -0.5),
    ]


# The end

ENDS = {
    "good": "stop",
    "length": "length",
    "no_reason": "stop",
    "babbles_on": "stop",
    "empty_lines": "stop",
    "last_line_open": "stop",
    "error_midway": "reported an error: an error was encountered while running the model: GGML_ASSERT",
    "error_of_memory": "reported an error: CUDA error: out of memory current device: 0",
    "error_object": "reported an error: the upstream is gone",
    "no_done": "ended the stream before the answer was complete",
    "half_a_line": "ended the stream in the middle of a line",
    "unloads": "unloaded the model",
    "garbage": "sent a line that is not Ollama's: it is not valid JSON",
}
WITHOUT_TEXT = {
    "nothing": "ended the stream without an answer",
    "only_loads": "only loaded the model: it found nothing to answer",
    "html": "answered with HTML instead of a stream: check the URL",
}


@pytest.mark.parametrize(("behaviour", "end"), ENDS.items())
def test_the_text_is_kept_and_the_end_has_a_reason(behaviour: str, end: str) -> None:
    chunks, reason = outcome(lines_of(behaviour))
    assert ["".join(piece.text for piece in chunk.pieces) for chunk in chunks] == ["One", " fine", " day"]
    assert reason == end


@pytest.mark.parametrize(("behaviour", "end"), WITHOUT_TEXT.items())
def test_a_stream_without_text_is_not_an_answer(behaviour: str, end: str) -> None:
    assert outcome(lines_of(behaviour)) == ([], end)


def test_html_without_a_line_end_is_recognized() -> None:
    assert outcome([b"<html>no"])[1] == WITHOUT_TEXT["html"]


def test_a_line_is_bounded() -> None:
    """In one part, or in many."""
    reason = f"sent a line of more than {MAX_LINE_BYTES >> 20} MiB"
    assert outcome([b"x" * (MAX_LINE_BYTES + 1) + b"\n"]) == ([], reason)
    assert outcome([b" " * 65_536] * 17) == ([], reason)
    assert outcome([b" " * MAX_LINE_BYTES + b"\n"])[1] == "ended the stream without an answer"


def test_a_line_nested_too_deep_is_refused() -> None:
    assert outcome(lines_of("deep"))[1].startswith("sent a line that is not Ollama's: ")


@pytest.mark.parametrize(("behaviour", "last"), [("text_left_open", "?"), ("other_shape", "17")])
def test_text_that_is_not_where_or_what_it_should_be_is_kept(behaviour: str, last: str) -> None:
    chunks, _ = outcome(lines_of(behaviour))
    assert [piece.text for chunk in chunks for piece in chunk.pieces] == ["One", " fine", " day", last]


# Where the bytes were cut


@given(st.sampled_from(sorted(SAID.keys() - {"deep"})), st.data())
@settings(max_examples=200, deadline=None)
def test_where_the_bytes_are_cut_changes_no_chunk(behaviour: str, data: st.DataObject) -> None:
    lines = lines_of(behaviour)
    whole = b"".join(lines)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=12).map(sorted))
    parts = [whole[begin:end] for begin, end in pairwise([0, *cuts, len(whole)])]
    assert outcome(parts) == outcome(lines)


@given(st.lists(st.binary(max_size=40), max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_chunks_or_in_a_sentence(parts: list[bytes]) -> None:
    chunks, reason = outcome(parts)
    assert reason
    assert "\n" not in reason
    assert all(chunk.pieces for chunk in chunks)
