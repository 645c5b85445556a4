"""From tokens to shown text: characters and tags of several tokens, and llama.cpp's messages when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.backend import BackendFailed, OutOfMemory, Piece
from producers.llama.answer import Text
from producers.llama.child import load_failure
from producers.llama.exchange import body_of, events_of, request
from producers.llama.step import (
    Continuation,
    Draw,
    Step,
    entry_of,
    piece_of,
    question,
    question_again,
    step_in,
    step_seed,
)
from producers.llama.stretch import STRETCH_TOKENS, StretchReader, next_length
from producers.servers.faults import ServerFault
from producers.servers.pieces import ListedToken, LogprobEntry
from producers.servers.thinking import TAGS, ThinkingSplitter
from runtime.socket_folder import new_socket_folder
from schemas.entries import Lane

BEGUN = ("", "<think>", "user: hi <think>\n", "[THINK]")
SPECIALS = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|x|>")
# Texts in which tags, parts of tags and white space are frequent.
WORDS = st.sampled_from(
    ["<think>", "</think>", "<", "</", "think", ">", "[THINK]", "[/THINK]", " ", "\n", "a", "é", "\0"]
)
TEXTS = st.lists(WORDS, max_size=12).map("".join)


def lanes_of(prompt: str, parts: list[str | tuple[str]]) -> tuple[str, str]:
    """(thinking, answer) of these parts; a tuple is a special token."""
    lanes = ThinkingSplitter(prompt)
    shares: list[tuple[Lane, str]] = []
    for part in parts:
        shares += lanes.feed(part) if isinstance(part, str) else lanes.feed("", *part)
    shares += lanes.end()
    assert all(text for _, text in shares)
    assert [lane for lane, _ in shares] == sorted((lane for lane, _ in shares), reverse=True), "thinking comes first"
    return tuple("".join(text for lane, text in shares if lane == one) for one in ("thinking", "answer"))  # type: ignore[return-value]


def parted(prompt: str, text: str) -> tuple[str, str]:
    """The same for a whole text, by the definition."""
    text = text.replace("\0", "")
    begun = text.lstrip()
    found = [(close, text) for opening, close in TAGS if prompt.rstrip().endswith(opening)]
    found += [(close, begun.removeprefix(opening)) for opening, close in TAGS if begun.startswith(opening)]
    if not found:
        return "", text
    close, rest = found[0]
    thinking, _, answer = rest.lstrip().partition(close)
    return thinking, answer.lstrip()


# Thinking and answer


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("", "Hello", ("", "Hello")),
        ("", " \n Hello <think>x</think>", ("", " \n Hello <think>x</think>")),
        ("", "<think>a b</think>\n\nHello", ("a b", "Hello")),
        ("", "\n<think>\na </think>Hello</think>", ("a ", "Hello</think>")),
        ("", "[THINK]a[/THINK]b", ("a", "b")),
        ("", "<think>a[/THINK]b", ("a[/THINK]b", "")),
        ("", "<think></think>b", ("", "b")),
        ("", "<thin", ("", "<thin")),
        ("", "<think>a</thi", ("a</thi", "")),
        ("", "", ("", "")),
        ("<think>\n", "a\n</think>\n\nb", ("a\n", "b")),
        ("<think>\n\n</think>\n\n", "b", ("", "b")),
    ],
)
def test_tags_separate_thinking_from_the_answer(prompt: str, text: str, expected: tuple[str, str]) -> None:
    assert lanes_of(prompt, [text]) == expected


@given(st.sampled_from(BEGUN), TEXTS, st.lists(st.integers(0, 60), max_size=6))
def test_where_the_text_is_cut_changes_nothing(prompt: str, text: str, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts: list[str | tuple[str]] = [text[a:b] for a, b in pairwise(places)]
    assert lanes_of(prompt, parts) == lanes_of(prompt, list(text)) == parted(prompt, text)


@given(st.lists(st.one_of(TEXTS, st.sampled_from(SPECIALS).map(lambda name: (name,))), max_size=10))
def test_special_tokens_are_never_shown(parts: list[str | tuple[str]]) -> None:
    shown = "".join(lanes_of("", parts))
    assert not any(name in shown for name in SPECIALS)


def test_tags_of_special_tokens_are_understood() -> None:
    """gpt-oss: its thinking is in one channel, its answer in another."""
    channel, message, end, start = (("<|channel|>",), ("<|message|>",), ("<|end|>",), ("<|start|>",))
    final: list[str | tuple[str]] = [channel, "final", message, "It is ", ("<|x|>",), "four."]
    thought: list[str | tuple[str]] = [channel, "analysis", message, "2 + 2", end, start, "assistant"]
    assert lanes_of("<|start|>assistant", [*thought, *final]) == ("2 + 2", "It is four.")
    assert lanes_of("<|start|>assistant", final) == ("", "It is four.")
    assert lanes_of("", [channel, "commentary", message, "a"]) == ("", "commentarya")


# Tokens


def step(raw: bytes, token: int = 7, logprob: float = -0.5) -> Step:
    entry = LogprobEntry("", list(raw), logprob, token, [ListedToken("", list(raw), logprob, token)])
    return Step(token, False, entry)


@given(st.text(max_size=30), st.lists(st.integers(0, 90), max_size=12))
def test_each_token_is_one_measured_piece_and_the_text_is_whole(text: str, cuts: list[int]) -> None:
    """Wherever tokens cut a character; special tokens have no bytes."""
    text = text.replace("\0", "")
    raw = text.encode()
    places = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    tokens = [raw[a:b] for a, b in pairwise(places)]
    shown = Text("", 20)
    pieces = [
        piece for i, token in enumerate(tokens) for piece in shown.pieces(step(token), "", is_last=i + 1 == len(tokens))
    ]
    assert "".join(piece.text for piece in pieces) == "".join(parted("", text))
    measured = [piece for piece in pieces if piece.quality == "real"]
    assert [piece.piece or piece.text.encode() for piece in measured] == tokens
    assert not any(piece.piece for piece in pieces if piece not in measured)


@given(st.lists(st.binary(max_size=4), max_size=10))
def test_no_bytes_of_a_model_break_the_text(tokens: list[bytes]) -> None:
    shown = Text("<think>", 1)
    for token in tokens:
        for piece in shown.pieces(step(token), "", is_last=False):
            piece.text.encode()
    shown.end()


def test_a_token_is_shown_where_its_text_is_certain() -> None:
    """< | think> | a | </think>b | é | and the tags belong to the thinking, whatever they show."""
    shown = Text("", 0)
    tokens = [b"<", b"think>", b"a", b"</think>b", b"\xc3", b"\xa9"]
    pieces = [piece for token in tokens for piece in shown.pieces(step(token), "", is_last=False)]
    assert [(piece.text, piece.lane) for piece in pieces] == [
        ("", "answer"), ("", "thinking"), ("a", "thinking"), ("b", "answer"), ("", "answer"), ("é", "answer"),
    ]  # fmt: skip
    assert [piece.piece for piece in pieces] == [b"<", b"think>", b"", b"</think>b", b"\xc3", b"\xa9"]


def test_a_token_with_text_of_both_lanes_is_measured_once() -> None:
    shown = Text("<think>", 0)
    first, second = shown.pieces(step(b"yes</think>No"), "", is_last=False)
    assert first == Piece("yes", "thinking")
    assert second == Piece("No", "answer", -0.5, "real", b"yes</think>No")


def test_text_that_was_kept_back_is_shown_with_the_last_token_or_the_end() -> None:
    for is_last in (True, False):
        shown = Text("", 0)
        (piece,) = shown.pieces(step(b"<thi"), "", is_last=is_last)
        assert piece.text + "".join(rest.text for rest in shown.end()) == "<thi"
        assert (piece.text == "<thi") is is_last


def test_half_a_character_at_the_end_is_not_shown() -> None:
    (piece,) = Text("", 0).pieces(step(b"a\xed\x95"), "", is_last=True)
    assert (piece.text, piece.piece) == ("a", b"a\xed\x95")


def test_a_token_without_a_measurement_has_the_quality_missing() -> None:
    assert piece_of("", "answer", Step(7, False, None), 20) == Piece("", "answer", token=7)


@given(st.integers(), st.integers(0, 10_000))
def test_the_seed_of_a_token_is_a_valid_seed_for_llama_cpp(seed: int, index: int) -> None:
    assert 0 <= step_seed(seed, index) < 2**32 - 1
    assert step_seed(seed, index) == step_seed(seed, index) != step_seed(seed, index + 1)
    assert step_seed(seed, index) != step_seed(seed + 1, index)


def test_only_the_first_request_of_an_answer_uses_no_cache() -> None:
    """The first token of an answer is computed anew; the others, and a second request for one, use the cache."""
    first, later = Continuation([1, 2], 1, is_first=True), Continuation([1, 2], 1, is_first=False)
    asked = [question(place, Draw(0.7, 3, 0), 5, is_streamed=True) for place in (first, later)]
    assert [one["cache_prompt"] for one in asked] == [False, True]
    assert [(one["n_probs"], one["n_predict"], one["stream"]) for one in asked] == [(1, 5, True)] * 2
    again = question_again(first, 64, forced=9)
    assert (again["cache_prompt"], again["n_probs"], again["temperature"]) == (True, 64, 0.0)
    assert again["n_predict"] == 1


ENTRY = b'{"id":5,"token":"x","bytes":[120],"logprob":-2.0,"top_logprobs":[%s]}'
TOP = b'{"id":%d,"token":"","bytes":[%d],"logprob":-%d.0}'


def test_a_sampled_token_is_found_in_the_list_of_another() -> None:
    listed = b",".join(TOP % (number, 100 + number, number) for number in range(1, 5))
    body = b'{"tokens":[5],"stop_type":"limit","completion_probabilities":[%s]}' % (ENTRY % listed)
    found = entry_of(3, body, top_k=2)
    assert found is not None
    assert (found.bytes, found.logprob, [one.id for one in found.top_logprobs or ()]) == ([103], -3.0, [1, 2])
    assert entry_of(99, body, top_k=2) is None
    step = step_in(body, ())
    assert step is not None
    assert (step.token, step.is_end, step.entry is not None) == (5, False, True)
    assert step_in(b'{"tokens":[2],"stop_type":"eos"}', ()) == Step(2, True, None)


def test_a_token_counts_only_after_the_ones_that_were_sent() -> None:
    """Of three tokens two were sent, with their entries: the third begins a character."""
    body = b'{"tokens":[4,5,6],"stop_type":"limit","completion_probabilities":[%s,%s]}' % (ENTRY % b"", ENTRY % b"")
    assert step_in(body, (4, 5)) == Step(6, False, None)
    assert [step_in(body, before) for before in ((), (4,), (4, 6), (4, 5, 6))] == [None] * 4


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"tokens":[]}', b'{"tokens":["a"]}'])
def test_an_answer_that_is_not_a_completion_is_a_fault(body: bytes) -> None:
    with pytest.raises(ServerFault, match="sent an answer"):
        step_in(body, ())


# Stretches


def event(count: int, raw: bytes = b"x") -> bytes:
    """The event of the token `count` of a stretch; a special token has no bytes."""
    content = {
        "tokens": [count],
        "tokens_predicted": count,
        "completion_probabilities": [{"bytes": [*raw], "id": count}],
    }
    return msgspec.json.encode({"content": "", "stop": False, **content})


def last_event(stop_type: str) -> bytes:
    return msgspec.json.encode({"tokens": [], "tokens_predicted": 9, "stop_type": stop_type})


def tokens_by_event(*events: bytes) -> list[list[tuple[int, bool]]]:
    """(token, whether it is the end) of each token, by the event that makes it certain, to the end of the stretch."""
    reader, found = StretchReader(), []
    for one in events:
        found.append([(step.token, step.is_end) for step in reader.read(one)])
        if reader.is_over:
            break
    return found


def test_a_token_is_certain_with_its_event_and_a_special_one_with_the_next() -> None:
    assert tokens_by_event(event(1), event(2), last_event("limit"), event(3)) == [[(1, False)], [(2, False)], []]
    assert tokens_by_event(event(1, b""), event(2)) == [[], [(1, False), (2, False)]]
    assert tokens_by_event(event(1, b""), event(2, b""), last_event("limit")) == [[], [(1, False)], [(2, False)]]
    assert tokens_by_event(event(1), event(2, b""), last_event("eos")) == [[(1, False)], [], [(2, True)]]


def test_a_stretch_is_over_before_a_token_that_is_missing() -> None:
    assert tokens_by_event(event(1), event(3), event(4)) == [[(1, False)], []]
    assert tokens_by_event(event(2), event(3)) == [[]]
    assert tokens_by_event(event(1, b""), event(3)) == [[], [(1, False)]]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "sent a line that is not a completion"),
        (b'{"tokens":1}', "sent a line that is not a completion"),
        (b'{"error":{"code":500,"message":"no\\nslot"}}', "reported an error: no slot"),
    ],
)
def test_an_event_that_is_not_valid_is_a_fault(body: bytes, words: str) -> None:
    with pytest.raises(ServerFault, match=words):
        StretchReader().read(body)


def test_after_a_cut_stretches_grow_again() -> None:
    lengths = [next_length(STRETCH_TOKENS, is_cut=True)]
    while lengths[-1] < STRETCH_TOKENS:
        lengths.append(next_length(lengths[-1], is_cut=False))
    assert lengths == [1, 2, 4, 8]
    assert next_length(STRETCH_TOKENS, is_cut=False) == STRETCH_TOKENS


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_PARTS = (b'data: {"a":1}\n', b"\n: ping\n\nda", b"ta: 2\n\n")
STREAM = STREAM_HEAD + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in STREAM_PARTS) + b"0\r\n\r\n"


async def events_in(answer: bytes, cut: int, folder: Path) -> list[bytes]:
    """The events of an answer that comes in two parts, and then nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in (answer[:cut], answer[cut:]):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    socket = str(folder / "s")
    async with await asyncio.start_unix_server(serve, socket):
        return [event async for event in events_of(socket, "/completion", {})]


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    folder = new_socket_folder("test")
    yield folder
    shutil.rmtree(folder)


async def test_a_stream_is_read_wherever_it_is_cut_and_must_be_complete(socket_folder: Path) -> None:
    for cut in range(len(STREAM)):
        assert await events_in(STREAM, cut, socket_folder) == [b'{"a":1}', b"2"]
    for end in range(len(STREAM) - 4):
        with pytest.raises(ConnectionError):
            await events_in(STREAM[:end], 0, socket_folder)
    refusal = b'HTTP/1.1 400 Bad Request\r\nContent-Length: 27\r\n\r\n{"error":{"message":"full"}}'
    with pytest.raises(ServerFault, match="refused the request: full"):
        await events_in(refusal.replace(b"27", b"28"), 5, socket_folder)


# llama.cpp's own messages

OK = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Length: 5\r\n\r\nhello"


def test_an_answer_must_be_complete() -> None:
    assert body_of(OK) == b"hello"
    for cut in range(len(OK)):
        with pytest.raises(ConnectionError):
            body_of(OK[:cut])


@given(st.binary(max_size=80))
def test_no_bytes_break_the_exchange(noise: bytes) -> None:
    for answer in (noise, OK[:17] + noise):
        with contextlib.suppress(ServerFault, ConnectionError):
            body_of(answer)


TEMPLATE = (
    "Unable to generate parser for this template. Automatic parser generation failed: \\n------------\\nWhile "
    "executing CallExpression at line 1, column 77 in source:\\n...{{raise_exception(...\\n         ^\\n"
    "Error: Jinja Exception: Conversation roles must alternate"
)
REFUSALS = {
    '{"error":{"code":400,"message":"request (9 tokens) is too long"}}': ": request (9 tokens) is too long",
    f'{{"error":{{"code":400,"message":"{TEMPLATE}"}}}}': ": Jinja Exception: Conversation roles must alternate",
    "[]": " without a reason",
    "": " without a reason",
}


@pytest.mark.parametrize(("body", "sentence"), REFUSALS.items())
def test_a_refusal_has_the_servers_message(body: str, sentence: str) -> None:
    with pytest.raises(ServerFault) as fault:
        body_of(f"HTTP/1.1 400 Bad Request\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    assert str(fault.value) == f"refused the request{sentence}"


def test_a_request_has_a_length_and_closes_its_connection() -> None:
    assert request("/slots").startswith(b"GET /slots HTTP/1.1\r\n")
    head, _, body = request("/tokenize", {"content": "é"}).partition(b"\r\n\r\n")
    assert body == '{"content":"é"}'.encode()
    assert b"Content-Length: %d" % len(body) in head
    assert b"Connection: close" in head


LOGGED = {
    "0.00.002.413 E llama_model_load: error loading model: unknown model architecture: 'zlama'": (
        "llama.cpp reports: unknown model architecture: 'zlama'"
    ),
    "0.00.008.149 E common_chat_templates_init: error: Unexpected token: ] of type 13\n"
    "0.00.008.610 E srv          init: exiting due to model loading error\n"
    "RuntimeError: Failed to init server, please check the input params.": (
        "llama.cpp reports: common_chat_templates_init: error: Unexpected token: ] of type 13"
    ),
    "Traceback (most recent call last):\nImportError: libgomp.so.1: none": "ImportError: libgomp.so.1: none",
    "": "llama.cpp reports no reason",
}


@pytest.mark.parametrize(("log", "reason"), LOGGED.items())
def test_a_failed_load_has_the_first_reason_of_the_log(log: str, reason: str) -> None:
    failure = load_failure("gguf:m", 1, log.splitlines())
    assert str(failure) == f"gguf:m cannot be loaded: {reason}"
    assert type(failure) is BackendFailed


NO_MEMORY = """\
0.01.074.143 E ggml_aligned_malloc: insufficient memory (attempted to allocate 3043.12 MB)
0.01.077.045 E llama_model_load: error loading model: unable to allocate CPU_REPACK buffer
0.01.077.636 E srv          init: exiting due to model loading error"""


def test_a_lack_of_memory_is_a_failure_of_its_own_with_numbers() -> None:
    failure = load_failure("gguf:m", 1, NO_MEMORY.splitlines())
    assert type(failure) is OutOfMemory
    assert "attempted to allocate 3043.12 MB" in str(failure)
    assert type(load_failure("gguf:m", -signal.SIGKILL, [])) is OutOfMemory
    assert type(load_failure("gguf:m", -signal.SIGSEGV, [])) is BackendFailed
    assert "Segmentation fault" in str(load_failure("gguf:m", -signal.SIGSEGV, []))
