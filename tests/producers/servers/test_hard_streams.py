"""Streams as servers really send them, byte by byte: what is shown of each, however the network cuts it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.backend import Chunk, Ending, Piece
from producers.ollama.stream import OllamaStream
from producers.openai.stream import ChatStream
from producers.servers.events import Event, Events
from producers.servers.faults import ServerFault
from producers.servers.lines import MAX_LINE_BYTES
from producers.servers.thinking import TAGS, name_thinks, template_thinks

DONE = b"data: [DONE]\n\n"
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n' + DONE


def choice(content: str, more: str = "", reason: str = "null") -> bytes:
    """One event whose delta has this JSON."""
    return f'data: {{"choices":[{{"index":0,"delta":{content},"finish_reason":{reason}{more}}}]}}\n\n'.encode()


def said(text: str, more: str = "") -> bytes:
    return choice(f'{{"content":"{text}"}}', more)


def line(text: str, more: str = "") -> bytes:
    """One line of Ollama."""
    return f'{{"message":{{"role":"assistant","content":"{text}"}},"done":false{more}}}\n'.encode()


OLLAMA_STOP = b'{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}\n'


class Outcome:
    """What a stream shows: the texts of the lanes, the qualities, and the ending or the fault."""

    def __init__(self, parts: Sequence[bytes], stream: ChatStream | OllamaStream | None = None) -> None:
        stream = stream or ChatStream(20)
        self.pieces: list[Piece] = []
        self.odd: tuple[str, ...] = ()
        self.end = ""
        try:
            for part in parts:
                self._add(stream.feed(part))
            self._add(stream.end())
        except ServerFault as fault:
            self.end = str(fault)
            if rest := stream.rest():
                self.pieces += rest.pieces
        self.answer, self.thinking = (
            "".join(piece.text for piece in self.pieces if piece.lane == lane) for lane in ("answer", "thinking")
        )

    def _add(self, items: object) -> None:
        for item in items:  # type: ignore[attr-defined]
            if isinstance(item, Chunk):
                self.pieces += item.pieces
            elif isinstance(item, Ending):
                self.end, self.odd = item.reason, item.odd


def cut(whole: bytes, cuts: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(min(at, len(whole)) for at in cuts), len(whole)]
    return [whole[start:end] for start, end in pairwise(bounds)]


# Streams of OpenAI-compatible servers: bytes, answer, thinking, ending.
HELLO = said("Hel") + said("lo")
BOM = b"\xef\xbb\xbf"
STREAMS: dict[str, tuple[bytes, str, str, str]] = {
    "lf": (HELLO + STOP, "Hello", "", "stop"),
    "crlf": ((HELLO + STOP).replace(b"\n", b"\r\n"), "Hello", "", "stop"),
    "cr": ((HELLO + STOP).replace(b"\n", b"\r"), "Hello", "", "stop"),
    "bom": (BOM + HELLO + STOP, "Hello", "", "stop"),
    "bom and cr": (BOM + (HELLO + STOP).replace(b"\n", b"\r"), "Hello", "", "stop"),
    "unknown fields": (b"x: y\nfoo\nretry: 3\nid: 1\nevent: z\n" + HELLO + b": note\n\n" + STOP, "Hello", "", "stop"),
    "without spaces": ((HELLO + STOP).replace(b"data: ", b"data:"), "Hello", "", "stop"),
    "without empty lines": ((HELLO + STOP).replace(b"\n\n", b"\n"), "Hello", "", "stop"),
    "without the last line's end": ((HELLO + STOP).rstrip(), "Hello", "", "stop"),
    "without [DONE] and a line's end": (HELLO + choice("{}", reason='"stop"').rstrip(), "Hello", "", "stop"),
    "two data lines": (HELLO.replace(b'"delta":', b'"delta":\ndata: ') + STOP, "Hello", "", "stop"),
    "pretty": (
        b'data: {\ndata:   "choices": [\ndata:     {"delta": {"content": "Hello"}}\ndata: ]}\n\n' + STOP,
        "Hello",
        "",
        "stop",
    ),
    "pretty in one data line": (
        b'data: {\n  "choices": [\n    {"delta": {"content": "Hello"}}\n  ]\n}\n\n' + STOP,
        "Hello",
        "",
        "stop",
    ),
    "a raw line end in a text": (said("a\nb") + STOP, "a\nb", "", "stop"),
    "bare json": (HELLO.replace(b"data: ", b"") + STOP, "Hello", "", "stop"),
    "no stream": (b'{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}', "Hello", "", "stop"),
    "no stream, pretty": (
        b'{\n "choices": [\n  {"message": {"content": "Hello"}, "finish_reason": "length"}\n ]\n}\n',
        "Hello",
        "",
        "length",
    ),
    "data that is no json": (b"data: ping\n\ndata:\n\n" + HELLO + STOP, "Hello", "", "stop"),
    "html inside": (HELLO + b"<html>\n502\n</html>\n" + STOP, "Hello", "", "stop"),
    "html at the end": (
        HELLO + b"<html>\n502</html>",
        "Hello",
        "",
        "sent HTML in the middle of its answer, and ended the stream",
    ),
    "error event": (HELLO + b'event: error\ndata: {"message":"gone"}\n\n', "Hello", "", "reported an error: gone"),
    "error event, plain": (HELLO + b"event: error\ndata: gone\n\n", "Hello", "", "reported an error: gone"),
    "error inside": (HELLO + b'data: {"error":{"message":"gone"}}\n\n', "Hello", "", "reported an error: gone"),
    "bare error": (HELLO + b'{"error":{"message":"gone"}}\n', "Hello", "", "reported an error: gone"),
    "bare error, pretty": (
        HELLO + b'{\n  "error": {\n    "message": "gone"\n  }\n}\n',
        "Hello",
        "",
        "reported an error: gone",
    ),
    "error beside text": (
        said("Hel") + b'data: {"error":{"message":"gone"},"choices":[{"delta":{"content":"lo"}}]}\n\n',
        "Hello",
        "",
        "reported an error: gone",
    ),
    "another choice": (
        said("Hel") + said("No").replace(b'"index":0', b'"index":1') + said("lo") + STOP,
        "Hello",
        "",
        "stop",
    ),
    # Deltas in other forms.
    "null delta": (choice("null") + HELLO + STOP, "Hello", "", "stop"),
    "null content": (choice('{"role":"assistant","content":null}') + HELLO + STOP, "Hello", "", "stop"),
    "null choices": (b'data: {"choices":null,"usage":{"total_tokens":1}}\n\n' + HELLO + STOP, "Hello", "", "stop"),
    "no choices": (b'data: {"choices":[],"usage":{}}\n\n' + HELLO + STOP, "Hello", "", "stop"),
    "parts": (
        choice('{"content":[{"type":"thinking","thinking":"Hm"},{"type":"text","text":"Hello"}]}') + STOP,
        "Hello",
        "Hm",
        "stop",
    ),
    "nested parts": (
        choice('{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Hm"}]}]}') + HELLO + STOP,
        "Hello",
        "Hm",
        "stop",
    ),
    "one part": (choice('{"content":{"type":"text","text":"Hello"}}') + STOP, "Hello", "", "stop"),
    "numbers": (choice('{"content":17}') + choice('{"content":2.5}') + STOP, "172.5", "", "stop"),
    "message": (b'data: {"choices":[{"message":{"content":"Hello"}}]}\n\n' + STOP, "Hello", "", "stop"),
    "message after deltas": (
        HELLO + b'data: {"choices":[{"message":{"content":"Hello!"},"finish_reason":"stop"}]}\n\n',
        "Hello!",
        "",
        "stop",
    ),
    "message beside deltas": (
        said("Hel", ',"message":{"content":"Hel"}') + said("lo", ',"message":{"content":"Hello"}') + STOP,
        "Hello",
        "",
        "stop",
    ),
    "no choices around it": (
        b'data: {"content":"Hel","stop":false}\n\ndata: {"delta":{"content":"lo"}}\n\n' + STOP,
        "Hello",
        "",
        "stop",
    ),
    "text": (b'data: {"choices":[{"text":"Hello","index":0}]}\n\n' + STOP, "Hello", "", "stop"),
    "reasoning_details": (
        choice('{"content":"","reasoning_details":[{"type":"reasoning.text","text":"Hm"}]}') + HELLO + STOP,
        "Hello",
        "Hm",
        "stop",
    ),
    "thought": (choice('{"thought":"Hm"}') + HELLO + STOP, "Hello", "Hm", "stop"),
    "refusal": (choice('{"refusal":"I cannot."}') + STOP, "I cannot.", "", "refused: its text is the refusal"),
    # Characters.
    "surrogates": (said(r"Hi \ud83d") + said(r"\ude00!") + STOP, "Hi 😀!", "", "stop"),
    "surrogates of thinking": (
        choice(r'{"reasoning_content":"\ud83d"}') + choice(r'{"reasoning_content":"\ude00"}') + HELLO + STOP,
        "Hello",
        "😀",
        "stop",
    ),
    "half a surrogate": (said(r"Hi \ud83d") + said("!") + STOP, "Hi \ufffd!", "", "stop"),
    "half a surrogate, last": (said(r"Hi \ud83d") + STOP, "Hi \ufffd", "", "stop"),
    "raw control characters": (said("a\tb\x01c") + STOP, "a\tb\x01c", "", "stop"),
    "invalid utf-8": (said("X").replace(b"X", b"a\xffb") + STOP, "a\ufffdb", "", "stop"),
    "bytes of a character": (
        said("X").replace(b"X", b"Hi \xf0\x9f") + said("X").replace(b"X", b"\x98\x80!") + STOP,
        "Hi 😀!",
        "",
        "stop",
    ),
    # Thinking.
    "tags": (
        said("<thi") + said("nk>The user") + said(" greets.</th") + said("ink>") + said("Hello") + STOP,
        "Hello",
        "The user greets.",
        "stop",
    ),
    "tags in other letters": (said("<Think>Hm</THINK>Hello") + STOP, "Hello", "Hm", "stop"),
    "only an end": (said("\\n</thi") + said("nk>\\n\\nHello") + STOP, "Hello", "", "stop"),
    "quoted tags": (
        said("`<think>` opens and `</think>` ends") + STOP,
        "`<think>` opens and `</think>` ends",
        "",
        "stop",
    ),
    "tags in code": (said("A:\\n```\\n<think>\\n</think>\\n```") + STOP, "A:\n```\n<think>\n</think>\n```", "", "stop"),
    "a quoted end in the thinking": (
        said("<think>It ends with `</think>") + said("`.</think>Hello") + STOP,
        "Hello",
        "It ends with `</think>`.",
        "stop",
    ),
    "no end": (said("<think>Hm") + STOP, "", "Hm", "stop"),
    "half a tag": (said("<thi") + STOP, "<thi", "", "stop"),
    "half a tag, broken off": (said("<thi"), "<thi", "", "ended the stream before the answer was complete"),
    "the end of another lane's thinking": (
        choice('{"reasoning_content":"Hm"}') + said("</think>\\n\\nHello") + STOP,
        "Hello",
        "Hm",
        "stop",
    ),
    "tags after a lane of thinking": (
        choice('{"reasoning_content":"Hm"}') + said("<think> is a tag") + STOP,
        "<think> is a tag",
        "Hm",
        "stop",
    ),
    # Endings.
    "length on every chunk": (
        b"".join(choice(f'{{"content":"{text}"}}', reason='"length"') for text in ("Hel", "lo")) + DONE,
        "Hello",
        "",
        "length",
    ),
    "stop in the first chunk": (choice("{}", reason='"stop"') + HELLO + DONE, "Hello", "", "stop"),
    "Gemini's reason": (said("Hello", ',"finishReason":"STOP"'), "Hello", "", "stop"),
    "the word null": (choice('{"content":"Hello"}', reason='"null"') + STOP, "Hello", "", "stop"),
    "only the word null": (
        choice('{"content":"Hello"}', reason='"null"'),
        "Hello",
        "",
        "ended the stream before the answer was complete",
    ),
    "text after the reason": (choice('{"content":"Hel"}', reason='"stop"') + said("lo") + DONE, "Hello", "", "stop"),
    "error without text": (choice("{}", reason='"error"') + DONE, "", "", 'ended the answer with "error"'),
    "error after text": (HELLO + choice("{}", reason='"abort"') + DONE, "Hello", "", 'ended the answer with "abort"'),
    "filtered": (choice("{}", reason='"content_filter"'), "", "", 'ended the answer with "content_filter"'),
    "no resources": (
        choice("{}", reason='"insufficient_system_resource"') + DONE,
        "",
        "",
        'ended the answer with "insufficient_system_resource"',
    ),
    "unknown without text": (choice("{}", reason='"odd"') + DONE, "", "", 'ended with "odd" and without an answer'),
    "unknown with text": (HELLO + choice("{}", reason='"odd"') + DONE, "Hello", "", "odd"),
    "unknown after thinking": (
        choice('{"reasoning":"Hm"}') + choice("{}", reason='"tool_calls"') + DONE,
        "",
        "Hm",
        'ended with "tool_calls" and without an answer',
    ),
}


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=40))
def test_a_stream_shows_its_text_however_it_is_cut(name: str, cuts: list[int]) -> None:
    whole, answer, thinking, end = STREAMS[name]
    single = [whole[at : at + 1] for at in range(len(whole))]
    for parts in ([whole], single, cut(whole, cuts)):
        found = Outcome(parts)
        assert (found.answer, found.thinking, found.end) == (answer, thinking, end)


@pytest.mark.parametrize(
    "word",
    ["eos", "eos_token", "end_turn", "stop_sequence", "COMPLETE", "STOP", "FINISH_REASON_STOP", "EndTurn", "done"],
)
def test_words_for_an_end_by_itself_are_stop(word: str) -> None:
    assert Outcome([HELLO, choice("{}", reason=f'"{word}"')]).end == "stop"


@pytest.mark.parametrize("word", ["length", "max_tokens", "MAX_TOKENS", "maxTokens", "model_length", "limit"])
def test_words_for_the_limit_of_tokens_are_length(word: str) -> None:
    assert Outcome([HELLO, choice("{}", reason=f'"{word}"')]).end == "length"


# What is measured.

REAL = ',"logprobs":{"content":[{"token":"Hello","logprob":%s,"bytes":%s,"top_logprobs":%s}]}'
TOP = '[{"token":"Hello","logprob":-0.3}]'
MEASURED = {
    "plain": REAL % ("-0.3", "[72,101,108,108,111]", TOP),
    "bytes null": REAL % ("-0.3", "null", TOP),
    "bytes in another form": REAL % ("-0.3", '"Hello"', TOP),
    "numbers as texts": REAL % ('"-0.3"', "null", '[{"token":"Hello","logprob":"-0.3"}]'),
    "a map of alternatives": REAL % ("-0.3", "null", '{"Hello":-0.3}'),
    "older completions": ',"logprobs":{"tokens":["Hello"],"token_logprobs":[-0.3],"top_logprobs":[{"Hello":-0.3}]}',
    "a list without an object": ',"logprobs":[{"token":"Hello","logprob":-0.3,"top_logprobs":[{"token":"Hello","logprob":-0.3}]}]',  # noqa: E501
    "of DeepSeek's thinking": (REAL % ("-0.3", "null", TOP)).replace("content", "reasoning_content"),
}


@pytest.mark.parametrize("name", MEASURED)
def test_logprobs_are_read_in_each_of_their_forms(name: str) -> None:
    (piece,) = Outcome([said("Hello", MEASURED[name]), STOP]).pieces
    assert piece == Piece("Hello", "answer", -0.3, "real", b"", ((b"Hello", -0.3),))


@pytest.mark.parametrize(
    ("logprobs", "is_odd"),
    [
        ("-0.25", True),
        ("[]", False),
        ("null", False),
        ("{}", False),
        ('{"content":null}', False),
        ('{"content":-0.25}', True),
        ('{"content":{}}', True),
        ('{"content":[-0.25]}', True),
        ('{"content":[{"token":1234,"logprob":-0.25}]}', True),
        ('{"content":[{"token":"token_id:1234","logprob":-0.25,"bytes":null}]}', False),
        ('{"content":[{"token":"Hello","logprob":NaN}]}', False),
        ('"none"', True),
    ],
)
def test_side_information_costs_the_measurement_and_never_the_text(logprobs: str, is_odd: bool) -> None:
    found = Outcome([said("Hello", f',"logprobs":{logprobs}'), STOP])
    assert (found.answer, found.end) == ("Hello", "stop")
    assert {piece.quality for piece in found.pieces} == {"missing"}
    assert found.odd == (("logprobs in an unknown form (1 time)",) if is_odd else ())
    assert "$" not in "".join(found.odd)


def test_entries_of_another_length_than_the_text_share_it() -> None:
    entry = '{"token":"%s","logprob":-0.5,"top_logprobs":[{"token":"x","logprob":-0.5}]}'
    for tokens in (["Hel"], ["Hel", "lo", "!"]):
        listed = ",".join(entry % token for token in tokens)
        found = Outcome([said("Hello", f',"logprobs":{{"content":[{listed}]}}'), STOP])
        assert found.answer == "Hello"
        assert len(found.pieces) == len(tokens)


def test_halves_of_a_character_in_tokens_cost_no_text() -> None:
    entry = r'{"token":"%s","logprob":-0.5,"top_logprobs":[{"token":"%s","logprob":-0.5}]}'
    parts = [
        said(text, f',"logprobs":{{"content":[{entry % (text, text)}]}}') for text in ("Hi", r" \ud83d", r"\ude00", "!")
    ]
    found = Outcome([*parts, STOP])
    assert found.answer == "Hi 😀!"
    assert [piece.quality for piece in found.pieces] == ["real"] * 4
    for piece in found.pieces:
        piece.text.encode()


def test_a_tag_of_measured_tokens_is_thinking_and_each_token_is_measured_once() -> None:
    entry = ',"logprobs":{"content":[{"token":"%s","logprob":-0.5,"top_logprobs":[{"token":"x","logprob":-0.5}]}]}'
    tokens = ["<thi", "nk>The user", " greets.</th", "ink>", "Hello"]
    found = Outcome([*[said(token, entry % token) for token in tokens], STOP])
    assert (found.answer, found.thinking) == ("Hello", "The user greets.")
    assert [piece.piece or piece.text.encode() for piece in found.pieces if piece.quality == "real"] == [
        token.encode() for token in tokens
    ]


@pytest.mark.parametrize(("opening", "close"), TAGS)
def test_each_familys_tags_divide_the_text(opening: str, close: str) -> None:
    text = f"{opening}\\nHm{close}\\n\\nHello"
    for parts in ([said(text)], [said(letter) for letter in text.replace("\\n", "\n").replace("\n", " ")]):
        found = Outcome([*parts, STOP])
        assert (found.answer, found.thinking.strip()) == ("Hello", "Hm")


# An opening tag that the template wrote.


def test_a_thinking_that_the_template_begins_is_known_from_the_model_or_from_its_first_answer() -> None:
    text = [said("The user"), said(" greets.\\n</thi"), said("nk>\\n\\nHello"), STOP]
    first = ChatStream(20)
    assert Outcome(text, first).answer == "The user greets.\n</think>\n\nHello"
    assert first.ended_unopened
    found = Outcome(text, ChatStream(20, begins_thinking=True))
    assert (found.answer, found.thinking) == ("Hello", "The user greets.\n")
    # It begins with its tag nevertheless, or the server sends the thinking by itself, or there is none.
    own = Outcome([said("<think>Hm</think>Hello"), STOP], ChatStream(20, begins_thinking=True))
    apart = Outcome([choice('{"reasoning":"Hm"}'), said("Hello"), STOP], ChatStream(20, begins_thinking=True))
    assert [(found.answer, found.thinking) for found in (own, apart)] == [("Hello", "Hm")] * 2
    none = Outcome([said("Hel"), said("lo"), STOP], ChatStream(20, begins_thinking=True))
    assert (none.answer, none.thinking, none.end) == ("Hello", "Hello", "stop")


def test_a_tag_in_a_text_is_not_the_end_of_a_thinking() -> None:
    stream = ChatStream(20)
    Outcome([said("<think>a</think>b"), said("\\n</think>\\n"), STOP], stream)
    assert not stream.ended_unopened
    quoted = ChatStream(20)
    Outcome([said("It ends with `</think>`."), STOP], quoted)
    assert not quoted.ended_unopened


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}", True),
        ("{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}", False),
        ("{{ '<think>' }}{% if add_generation_prompt %}{{ '<|a|><think>\\n\\n</think>' }}{% endif %}", False),
        (
            "{% if add_generation_prompt %}{% if no %}<think>\n\n</think>{% else %}<think>\n{% endif %}{% endif %}",
            False,
        ),
        ("{{ .Prompt }}<|Assistant|><think>\n", True),
        ("", False),
    ],
)
def test_a_template_that_opens_the_thinking_is_recognized(template: str, expected: bool) -> None:
    assert template_thinks(template) is expected


def test_models_whose_template_opens_the_thinking_are_known_by_name() -> None:
    assert all(map(name_thinks, ("deepseek-ai/DeepSeek-R1-0528", "QwQ-32B", "Qwen3-4B-Thinking-2507")))
    assert not any(map(name_thinks, ("llama-3.1", "qwen3:4b", "command-r1x", "grok-4-fast-reasoning")))


# The same code for NDJSON.

LINES: dict[str, tuple[bytes, str, str, str]] = {
    "crlf and bom": (BOM + (line("Hel") + line("lo") + OLLAMA_STOP).replace(b"\n", b"\r\n"), "Hello", "", "stop"),
    "tags": (
        line("<thi") + line("nk>The user") + line(" greets.</th") + line("ink>") + line("Hello") + OLLAMA_STOP,
        "Hello",
        "The user greets.",
        "stop",
    ),
    "surrogates": (line(r"Hi \ud83d") + line(r"\ude00!") + OLLAMA_STOP, "Hi 😀!", "", "stop"),
    "raw control characters": (line("a\tb\rc") + OLLAMA_STOP, "a\tb\rc", "", "stop"),
    "invalid utf-8": (line("X").replace(b"X", b"a\xffb") + OLLAMA_STOP, "a\ufffdb", "", "stop"),
    "parts": (
        b'{"message":{"content":[{"type":"thinking","thinking":"Hm"},{"type":"text","text":"Hello"}]}}\n' + OLLAMA_STOP,
        "Hello",
        "Hm",
        "stop",
    ),
    "odd logprobs": (line("Hello", ',"logprobs":-0.25') + OLLAMA_STOP, "Hello", "", "stop"),
    "last line open": (line("Hel") + b'{"message":{"content":"lo"},"done":true}', "Hello", "", "stop"),
    "text after the end": (line("Hel") + OLLAMA_STOP + line("lo") + b"<b>\n", "Hello", "", "stop"),
    "error": (line("Hel") + b'{"error":"gone"}\n', "Hel", "", "reported an error: gone"),
    "unknown word": (line("Hi") + OLLAMA_STOP.replace(b'"stop"', b'"odd"'), "Hi", "", "odd"),
    "failure": (OLLAMA_STOP.replace(b'"stop"', b'"error"'), "", "", 'ended the answer with "error"'),
    "synonym": (line("Hi") + OLLAMA_STOP.replace(b'"stop"', b'"eos"'), "Hi", "", "stop"),
}


@pytest.mark.parametrize("name", LINES)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=40))
def test_a_stream_of_lines_shows_its_text_however_it_is_cut(name: str, cuts: list[int]) -> None:
    whole, answer, thinking, end = LINES[name]
    for parts in ([whole], [whole[at : at + 1] for at in range(len(whole))], cut(whole, cuts)):
        found = Outcome(parts, OllamaStream(20))
        assert (found.answer, found.thinking, found.end) == (answer, thinking, end)


# Events.


def events_of(parts: Sequence[bytes]) -> list[Event]:
    events = Events()
    found = [event for part in parts for event in events.feed(part)]
    return [*found, *events.end()]


def test_a_byte_order_mark_counts_before_the_first_line_only() -> None:
    assert events_of([BOM + b"data: 1\n\n" + BOM + b"data: 2\n\n"]) == [Event(b"1")]
    assert events_of([b"\xef", b"\xbb", b"\xbfdata: 1\n\n"]) == [Event(b"1")]
    assert events_of([b"\xef\xbb"]) == []


def test_an_event_is_bounded_however_many_lines_it_has() -> None:
    events = Events()
    with pytest.raises(ServerFault, match="an event of more than 1 MiB"):
        list(events.feed((b"data: [" + b" " * 2**15 + b"\n") * (MAX_LINE_BYTES // 2**15 + 1)))
