"""The lines of Ollama's streams, field by field in Ollama's order, and streams with faults.

Names, order and JSON are those of Ollama 0.12.11 and later, written by Go. The table SAID defines the behaviours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Said:
    """The content of one line of a stream; a `reason` makes it the last."""

    text: str = ""
    entries: tuple[dict[str, Any], ...] = ()
    thinking: str = ""
    reason: str = ""


def go_json(value: object) -> bytes:
    """JSON as Go writes it: compact, and safe inside HTML."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "surrogatepass")


def go_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z"


def now() -> str:
    return go_time(datetime.now(UTC))


def token_entry(name: str, logprob: float) -> dict[str, Any]:
    """`bytes` are made from the name, so half a character has those of U+FFFD; an empty name has none."""
    entry: dict[str, Any] = {"token": name, "logprob": logprob}
    return {**entry, "bytes": list(name.encode())} if name else entry


def logprob_entry(name: str, logprob: float = -0.5, *others: tuple[str, float]) -> dict[str, Any]:
    listed = others or ((name, logprob), (" or", -1.5))
    return {**token_entry(name, logprob), "top_logprobs": [token_entry(*other) for other in listed]}


def line(path: str, model: str, content: Said) -> dict[str, Any]:
    """One line of a stream, its fields in Ollama's order."""
    head: dict[str, Any] = {"model": model, "created_at": now()}
    thinking = {"thinking": content.thinking} if content.thinking else {}
    logprobs = {"logprobs": list(content.entries)} if content.entries else {}
    done: dict[str, Any] = {"done": bool(content.reason)}
    metrics: dict[str, Any] = {}
    if content.reason:
        done["done_reason"] = content.reason
        durations = dict.fromkeys(("total_duration", "load_duration"), 51_234_567)
        metrics = {**durations, "prompt_eval_count": 12, "prompt_eval_duration": 1_234_567}
        metrics |= {"eval_count": 3, "eval_duration": 2_345_678}
    if path == "/api/chat":
        message = {"role": "assistant", "content": content.text, **thinking}
        return {**head, "message": message, **done, **logprobs, **metrics}
    return {**head, "response": content.text, **thinking, **done, **metrics, **logprobs}


def token(text: str) -> Said:
    return Said(text, (logprob_entry(text),))


GOOD_TEXTS = ("One", " fine", " day")
BEGUN = tuple(token(text) for text in GOOD_TEXTS)
STOP = Said(reason="stop")
HALF = "\ufffd"
HTML = b"<!DOCTYPE html>\n<html><head><title>nginx</title></head><body>\nsecrets\n</body></html>\n"

# The streams, line by line: the content of a line, or its bytes.
SAID: dict[str, tuple[Said | bytes, ...]] = {
    "good": (*BEGUN, STOP),
    "length": (*BEGUN, Said(reason="length")),
    "no_reason": (*BEGUN, b'{"model":"m","done":true}\n'),
    "error_midway": (*BEGUN, b'{"error":"an error was encountered while running the model: \\u001b[31mGGML_ASSERT"}\n'),
    "error_of_memory": (*BEGUN, b'{"error":"CUDA error: out of memory\\n  current device: 0"}\n'),
    "error_object": (*BEGUN, b'{"error":{"message":"the upstream is gone","code":502}}\n'),
    "no_done": BEGUN,
    "nothing": (),
    "half_a_line": (*BEGUN, b'{"model":"m","message":{"role":"assist'),
    "last_line_open": (*BEGUN, b'{"model":"m","message":{"role":"assistant","content":""},"done":true}'),
    "text_left_open": (*BEGUN, b'{"message":{"role":"assistant","content":"?"},"response":"?","done":true}'),
    "unloads": (*BEGUN, Said(reason="unload")),
    "only_loads": (Said(reason="load"),),
    "babbles_on": (*BEGUN, STOP, b"<b>what?</b>\n", b"{oops\n"),
    "html": (HTML,),
    "garbage": (*BEGUN, b"data: {}\n"),
    "other_shape": (*BEGUN, b'{"message":{"content":17}}\n'),
    "deep": (b'{"logprobs":' + b"[" * 500_000 + b"\n",),
    "empty_lines": (b"\n", *BEGUN, b"\r\n", STOP),
    "several_entries": (
        Said("One fine day", (logprob_entry("One"), logprob_entry(" fine", -0.25), logprob_entry(" day"))),
        Said("cleaned", (logprob_entry(" cle"), logprob_entry("aned\n"))),
        STOP,
    ),
    # A character of two tokens: both halves have the name U+FFFD, and so have many of their alternatives.
    "split_character": (
        Said(" é", (logprob_entry(" "), logprob_entry(HALF, -0.5, (HALF, -0.5), (HALF, -1.5), ("e", -3.0)))),
        Said("", (logprob_entry(HALF, -0.25),)),
        Said("ü", (logprob_entry(HALF, -0.125),)),
        STOP,
    ),
    # A server with llama.cpp's names for half characters, which are empty.
    "nameless_tokens": (Said("é", (logprob_entry("", -0.5, ("", -0.5), ("", -1.5), ("e", -3.0)),)), STOP),
    "thinking": (
        Said("", (logprob_entry("<think>"),)),
        Said(thinking="Hm", entries=(logprob_entry("Hm"),)),
        Said(thinking=", so", entries=(logprob_entry(","), logprob_entry(" so"))),
        Said("", (logprob_entry("</think>"),)),
        Said("Yes", (logprob_entry("Yes"),), thinking="!"),
        Said(".", (logprob_entry("."),)),
        STOP,
    ),
    "other_names": (
        b'{"message":{"content":"","reasoning":"a"}}\n',
        b'{"message":{"content":null,"reasoning_content":"b"}}\n',
        STOP,
    ),
    # Stand-ins of speculative decoding: no alternatives, or only zeros; then no logprobs.
    "doubtful_logprobs": (
        Said("a", ({**token_entry("a", 0.0), "top_logprobs": []},)),
        Said("b", (logprob_entry("b", 0.0, ("b", 0.0), ("c", 0.0)),)),
        Said("c"),
        Said("d", (logprob_entry("d", -0.5, ("d", -0.5), ("e", -1.0)),)),
        STOP,
    ),
}


def lines_of(behaviour: str, path: str = "/api/chat", model: str = "m") -> tuple[bytes, ...]:
    """The lines of a behaviour as bytes."""
    parts = SAID[behaviour]
    return tuple(part if isinstance(part, bytes) else go_json(line(path, model, part)) + b"\n" for part in parts)
