"""The pure half of the OpenAI-compatible backend: from bytes to chunks, from logprob entries to pieces."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.backend import Chunk, Ending, Piece
from producers.openai.stream import ChatStream
from producers.servers.faults import ServerFault, error_code, error_message
from producers.servers.lines import MAX_LINE_BYTES
from producers.servers.pieces import MAX_TOP, ListedToken, LogprobEntry, measured_pieces, piece_bytes, text_shares
from schemas.entries import pack_top
from tests.support import faulty_server as faults


def outcome(parts: Sequence[bytes]) -> tuple[list[Chunk], str]:
    """(the chunks of a stream that comes in these parts, how it ends)."""
    stream = ChatStream(top_k=20)
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


def pieces_of(model: str) -> list[Piece]:
    """The pieces of a stream of the faulty server."""
    chunks, _ = outcome(faults.STREAMED[model])
    return [piece for chunk in chunks for piece in chunk.pieces]


# How many tokens the prompt has

COUNTED = [
    ('{"choices":[],"usage":{"prompt_tokens":29,"completion_tokens":3}}', 29),
    ('{"choices":[],"usage":{"prompt_tokens":29},"timings":{"prompt_n":4,"cache_n":5}}', 29),
    # A llama-server that was asked for no usage; an older one does not report what was cached.
    ('{"choices":[],"timings":{"prompt_n":4,"cache_n":25}}', 29),
    ('{"choices":[],"timings":{"prompt_n":29,"cache_n":0}}', 29),
    ('{"choices":[],"timings":{"prompt_n":4}}', None),
    # Events that are read part by part.
    ('{"usage":{"prompt_tokens":29},"object":"chat.completion.usage"}', 29),
    ('{"choices":[{"index":0,"delta":{"content":[]},"finish_reason":"stop"}],"usage":{"prompt_tokens":29}}', 29),
    *((f'{{"choices":[],"usage":{{"prompt_tokens":{nonsense}}}}}', None) for nonsense in (
        "0", "-1", "29.0", "29.5", '"29"', "true", "null", "[]", "10000001", "1e400", "9" * 400, "NaN",
    )),
    *((f'{{"choices":[],"usage":{nonsense}}}', None) for nonsense in ("null", "[]", "29", '"29"', "{}")),
]  # fmt: skip


@pytest.mark.parametrize(("event", "tokens"), COUNTED)
def test_the_tokens_of_a_prompt_are_those_that_the_server_reports_if_they_can_be(
    event: str, tokens: int | None
) -> None:
    stream = ChatStream(top_k=20)
    sent = (*faults.BEGUN, faults.STOP, f"data: {event}\n\n".encode(), faults.DONE)
    items = [item for part in sent for item in stream.feed(part)] + [*stream.end()]
    assert items[-1] == Ending("stop", prompt_tokens=tokens)


def test_of_several_reports_the_last_number_counts_wherever_it_is() -> None:
    """Of servers that report it with each chunk, or before the end."""

    def chunk(usage: str, reason: str = "null") -> bytes:
        choice = f'{{"index":0,"delta":{{"content":"a"}},"finish_reason":{reason}}}'
        return f'data: {{"choices":[{choice}],"usage":{usage}}}\n\n'.encode()

    stream = ChatStream(top_k=20)
    parts = (chunk('{"prompt_tokens":1}'), chunk('{"prompt_tokens":29}'), chunk("null"), chunk('{"a":1}', '"stop"'))
    items = [item for part in parts for item in stream.feed(part)] + [*stream.end()]
    assert items[-1] == Ending("stop", prompt_tokens=29)


# Pieces


def test_several_entries_of_a_chunk_share_its_text() -> None:
    chunks, _ = outcome(faults.STREAMED["several_entries"])
    first, second, third = ([(piece.text, piece.piece) for piece in chunk.pieces] for chunk in chunks)
    assert first == [("One", b""), (" fine", b""), (" day", b"")]
    assert second == [("", b"\xc3"), ("é", b"\xa9"), ("!", b"")]
    assert third == [("", b" cle"), ("cleaned", b"aned\n")]


def test_a_split_character_is_shown_whole_and_both_its_tokens_are_measured() -> None:
    pieces = pieces_of("split_character")
    assert [(piece.text, piece.piece, piece.quality, piece.lane) for piece in pieces] == [
        ("", b"\xc3", "real", "answer"),
        ("é", b"\xa9", "real", "answer"),
    ]


def test_a_last_token_with_the_name_of_its_whole_character_has_the_bytes_of_its_list() -> None:
    """llama-server sends the last token of "뱋" with three bytes, and lists it with its last byte alone."""
    whole, last, other = list("뱋".encode()), [0x8B], [0x8C]
    top = [ListedToken("\ufffd", last, -0.025), ListedToken("\ufffd", other, -3.5)]
    (piece,) = measured_pieces("뱋", "answer", [LogprobEntry("뱋", whole, -0.025, None, top)], 20)
    assert (piece.text, piece.piece) == ("뱋", b"\x8b")
    # A token with another probability, or one that is listed by its name, has the bytes of its name.
    (absent,) = measured_pieces("뱋", "answer", [LogprobEntry("뱋", whole, -4.5, None, top)], 20)
    (named,) = measured_pieces(
        "뱋", "answer", [LogprobEntry("뱋", whole, -0.025, None, [*top, ListedToken("뱋", whole, -0.025)])], 20
    )
    assert (absent.piece, named.piece) == (b"", b"")


def test_thinking_is_a_lane_of_its_own_under_each_of_its_names() -> None:
    pieces = pieces_of("thinking")
    assert [(piece.lane, piece.text) for piece in pieces] == [
        ("thinking", "Hm"),
        ("thinking", ", "),
        ("thinking", "so"),
        ("thinking", ""),
        ("thinking", "!"),
        ("answer", "Yes"),
        ("answer", "."),
    ]
    assert [piece.quality for piece in pieces] == ["real"] * 4 + ["missing"] + ["real"] * 2


def test_only_what_was_measured_is_called_real() -> None:
    pieces = pieces_of("doubtful_logprobs")
    assert [(piece.text, piece.quality, piece.logprob, piece.top) for piece in pieces] == [
        ("a", "placeholder", None, ()),
        ("b", "placeholder", None, ()),
        ("c", "missing", None, ()),
        ("d", "missing", None, ()),
        ("e", "missing", None, ()),
        ("f", "real", 0.0, ((b"f", 0.0),)),
        ("g", "real", 0.0, ((b"g", 0.0),)),
        ("h", "real", -0.5, ((b"", -1.0), (b"", -2.0))),
    ]


def test_minus_infinity_as_vllm_writes_it_is_not_a_measurement() -> None:
    """A token that was drawn cannot have it; another one with it is left out."""
    pieces = pieces_of("vllm")
    assert [(piece.text, piece.quality, piece.logprob, piece.top) for piece in pieces] == [
        ("One", "real", -0.25, ((b"One", -0.25), (b" or", -1.5))),
        (" fine", "real", -0.5, ((b" fine", -0.5),)),
        (" day", "placeholder", None, ()),
        ("s", "placeholder", None, ()),
        ("!", "real", -0.5, ((b"!", -0.5), (b" or", -1.5))),
    ]


def test_a_list_that_was_not_requested_may_be_empty() -> None:
    (piece,) = measured_pieces("a", "answer", [LogprobEntry("a", None, -0.5)], 0)
    assert (piece.quality, piece.logprob) == ("real", -0.5)


def test_a_number_too_large_for_a_float_is_missing() -> None:
    (piece,) = pieces_of("too_large")
    assert (piece.text, piece.quality) == ("a", "missing")


def test_half_characters_are_replaced_so_that_they_can_be_encoded() -> None:
    piece, rest = pieces_of("half_characters")
    assert [(one.text, one.quality) for one in (piece, rest)] == [("a", "real"), ("\ufffd", "missing")]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(piece), type=Piece) == piece


def test_a_list_is_no_longer_than_an_entry_may_carry() -> None:
    long = [ListedToken(f"t{number}", None, -float(number)) for number in range(3 * MAX_TOP)]
    (piece,) = measured_pieces("t0", "answer", [LogprobEntry("t0", None, -0.5, None, long)], 20)
    assert [name for name, _ in piece.top] == [f"t{number}".encode() for number in range(MAX_TOP)]
    assert pack_top(list(piece.top))


@pytest.mark.parametrize(
    ("listed", "piece"),
    [
        (ListedToken("x", [0xC3]), b"\xc3"),
        (ListedToken("\u2581a\u0120b\u010a"), b" a b\n"),
        (ListedToken("<0x0A>"), b"\n"),
        (ListedToken("é", [300, -1]), "é".encode()),
        (ListedToken("", []), b""),
        (ListedToken(), b""),
    ],
)
def test_a_piece_is_the_tokens_bytes_or_its_name(listed: ListedToken, piece: bytes) -> None:
    assert piece_bytes(listed) == piece


@settings(deadline=None)
@given(st.text(), st.lists(st.integers(0, 40)))
def test_shares_always_add_up_to_the_text(text: str, cuts: list[int]) -> None:
    """Pieces that concatenate to the text, cut anywhere, also inside characters; and pieces that do not."""
    whole = text.encode()
    bounds = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(bounds)]
    shares = text_shares(text, pieces)
    assert "".join(shares) == text
    for start, (share, piece) in zip(bounds, zip(shares, pieces, strict=True), strict=False):
        if whole[:start].decode("utf-8", "ignore").encode() == whole[:start] and not _cuts_a_character(piece):
            assert share.encode() == piece
    assert "".join(text_shares(text, [*pieces, b"more"])) == text


def _cuts_a_character(piece: bytes) -> bool:
    return piece.decode("utf-8", "ignore").encode() != piece


# Error messages


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"code":400,"message":"no","type":"bad"}}', "no", "bad"),
        (b'{"error":{"message":"no","type":"bad","code":"worse"}}', "no", "worse"),
        (b'{"error":"no"}', "no", ""),
        (b'{"object":"error","message":"no","code":400}', "no", ""),
        (b'{"detail":"no"}', "no", ""),
        (b'{"detail":[{"loc":["body","top_logprobs"],"msg":"no"}]}', "top_logprobs: no", ""),
        (b'{"message":{"detail":[{"loc":["body","seed"],"msg":"no"}]}}', "seed: no", ""),
        (b'[{"error":{"code":429,"message":"no","status":"FULL"}}]', "no", ""),
        (b'{"error":{"code":500}}', "", ""),
        (b'{"error":null,"choices":[]}', "", ""),
        (b"slow\tdown\n", "slow down", ""),
        (b"<html>", "", ""),
        (b'{"error":', "", ""),
        (b"[" * 100_000, "", ""),
        (b"[" * 900 + b"]" * 900, "", ""),
        (b"", "", ""),
    ],
)
def test_a_servers_message_is_found_in_each_of_its_places(body: bytes, message: str, code: str) -> None:
    assert (error_message(body), error_code(body)) == (message, code)


# Where the bytes are cut

GOOD_LINES = (*faults.BEGUN, *faults.STREAMED["several_entries"][:-2], faults.PING, b"event: x\r\n", b"\n", b"\r\n")
ANY_LINES = [line for lines in faults.STREAMED.values() for line in lines if len(line) < 10_000]
LINES = st.lists(st.sampled_from(GOOD_LINES) | st.sampled_from(ANY_LINES), max_size=8)


@settings(deadline=None)
@given(LINES, st.booleans(), st.lists(st.integers(0, 4_000)))
def test_where_the_network_cuts_the_stream_changes_nothing(lines: list[bytes], windows: bool, cuts: list[int]) -> None:
    expected = outcome(lines)
    stream = b"".join(lines).replace(b"\n", b"\r\n" if windows else b"\n")
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    parts = [stream[start:end] for start, end in pairwise(bounds)]
    assert outcome(parts) == expected


@pytest.mark.parametrize(
    "noise", [faults.PING, b"\n", b"\r\n", b"data:\n", b"event: x\n", b"id: 7\n", b"retry: 10\r\n"]
)
def test_noise_between_the_events_changes_nothing(noise: bytes) -> None:
    good = faults.STREAMED["good"]
    assert outcome([part for line in good for part in (noise, line)]) == outcome(good)


def test_even_single_bytes_make_the_same_chunks() -> None:
    stream = b"".join((*faults.BEGUN, *faults.STREAMED["several_entries"][:-2], *faults.STREAMED["thinking"]))
    chunks, reason = outcome([stream[at : at + 1] for at in range(len(stream))])
    assert (chunks, reason) == outcome([stream])
    assert (len(chunks), reason) == (12, "stop")


@pytest.mark.parametrize("size", [1 << 10, 1 << 16, 1 << 22])
def test_a_line_is_bounded_however_it_arrives(size: int) -> None:
    """A line of exactly the limit is read, and so are the lines between it and one that is too long."""
    stream = b": " + b"x" * (MAX_LINE_BYTES - 2) + b"\n" + faults.token("kept") + b"y" * (MAX_LINE_BYTES + 1)
    chunks, fault = outcome([stream[at : at + size] for at in range(0, len(stream), size)])
    assert ["".join(piece.text for piece in chunk.pieces) for chunk in chunks] == ["kept"]
    assert fault == "sent a line of more than 1 MiB"
