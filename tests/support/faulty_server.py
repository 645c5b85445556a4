"""A model server with faults that a real one cannot be made to have: one behaviour for each model name.

    async with faulty_server() as server: ... OpenAIBackend("half_a_line", server.url) ...

The wire format, with its headers and the order of JSON keys, is llama-server's, which also closes the connection after
each answer; a comment names any other server. Four tables define the behaviours: WHOLE, STREAMED, REFUSING and SPECIAL.
A GET request is answered from `says`, by its path; an unknown path is 404, and one in `hangs` is not answered.
"""

from __future__ import annotations

import asyncio
import json
import math
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

PING_S = 0.02
PINGS_BEFORE_BEGINNING = 20
LOADING_ANSWERS = 2
CROWDED_ANSWERS = 2


# An answer that is not a stream: status (and further headers), content type, body.
Whole = tuple[str, str, bytes]


@dataclass
class FaultyServer:
    """Its URL and what it received: the bodies and heads of all requests for an answer, the heads of all GET requests,
    and how many connections are open. The model `waits` writes the second half of its answers when `goes_on` is set."""

    url: str = ""
    says: dict[str, Whole] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)
    looks: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Answer:
    """One response on a connection. `number` counts the requests for this model from 1; `head` and `body` are those of
    the request."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: str
    body: dict[str, Any]
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    chunked: bool = False

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def whole(self, status: str, kind: str, body: bytes) -> None:
        head = f"HTTP/1.1 {status}\r\nServer: llama.cpp\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        await self.raw(head.encode() + body)

    async def stream(self, *parts: bytes) -> None:
        """Begins a stream and sends these parts, each as one HTTP chunk, as llama-server does."""
        self.chunked = True
        await self.raw(
            b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nX-Accel-Buffering: no\r\n"
            b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=100\r\n\r\n"
        )
        for part in parts:
            await self.part(part)

    async def part(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def until_left(self) -> None:
        """Waits until the client closes the connection."""
        await self.reader.read()


Behaviour = Callable[[Answer], Awaitable[None]]


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def as_json(value: object, status: str = "200 OK") -> Whole:
    return status, "application/json; charset=utf-8", compact(value)


def refusal(status: str, message: str, kind: str) -> Whole:
    return as_json({"error": {"code": int(status.split()[0]), "message": message, "type": kind}}, status)


def openai_refusal(status: str, message: str, param: str | None, code: str | None) -> Whole:
    """In OpenAI's format."""
    kind = "invalid_request_error"
    return as_json({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def vllm_refusal(message: str) -> Whole:
    error = {"message": message, "type": "BadRequestError", "param": "logprobs", "code": 400}
    return as_json({"error": error}, "400 Bad Request")


def event(choice: dict[str, Any] | None, **more: object) -> bytes:
    """One `data:` line of llama-server, with the empty line after it."""
    head = {
        "choices": [choice] if choice else [],
        "created": 1795357522,
        "id": "chatcmpl-RZYysKQ2k8U20jptDtX2wBJtdBRK47R2",
    }
    tail = {"model": "tiny", "system_fingerprint": "b1-0", "object": "chat.completion.chunk"}
    return b"data: " + compact({**head, **tail, **more}) + b"\n\n"


def delta(content: dict[str, Any], *entries: dict[str, Any], reason: str | None = None) -> bytes:
    choice: dict[str, Any] = {"finish_reason": reason, "index": 0, "delta": content}
    return event({**choice, "logprobs": {"content": list(entries)}} if entries else choice)


def listed(text: str | bytes, logprob: float | None, number: int | None = None) -> dict[str, Any]:
    """A token as llama-server lists it: its bytes, and the whole characters of its text."""
    own = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    name = own.decode("utf-8", "ignore")
    return {"id": zlib.crc32(own) if number is None else number, "token": name, "bytes": list(own), "logprob": logprob}


def entry(text: str | bytes, logprob: float | None = -0.5, *others: dict[str, Any]) -> dict[str, Any]:
    return {**listed(text, logprob), "top_logprobs": list(others) or [listed(text, logprob), listed(" or", -1.5)]}


def token(text: str) -> bytes:
    return delta({"content": text}, entry(text))


ROLE = delta({"role": "assistant", "content": None})
STOP = delta({}, reason="stop")
USAGE = event(None, usage={"completion_tokens": 3, "prompt_tokens": 29, "total_tokens": 32})
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
HTML = b"<!DOCTYPE html>\n<html><head><title>nginx</title></head><body>\nsecrets\n</body></html>\n"
FLOORED = listed(" or", -9999.0)
GOOD_TEXTS = ("One", " fine", " day")
BEGUN = (ROLE, *(token(text) for text in GOOD_TEXTS))

WHOLE: dict[str, Whole] = {
    "not_found": refusal("404 Not Found", "File Not Found", "not_found_error"),
    "broken": refusal("500 Internal Server Error", "Compute error.\n\x1b[31mred", "server_error"),
    "long_winded": refusal("400 Bad Request", "word " * 10_000, "invalid_request_error"),
    "quotes_the_prompt": refusal(
        "400 Bad Request", "cannot parse: My darkest secret is that I count", "invalid_request_error"
    ),
    "loading_for_ever": refusal("503 Service Unavailable", "Loading model", "unavailable_error"),
    "busy": ("503 Service Unavailable", "text/plain", b"server busy, please try again\n"),
    "html": ("200 OK", "text/html", HTML),
    "html_502": ("502 Bad Gateway", "text/html", HTML),
    "json_answer": ("200 OK", "application/json", compact({"error": "no model is loaded"})),
    "plain_text": ("200 OK", "text/plain", b"It works!\n"),
    "forbidden": openai_refusal("403 Forbidden", "You are not allowed to use this model", None, None),
    "moved": ("308 Permanent Redirect\r\nLocation: http://127.0.0.1:1/v1/chat/completions", "text/plain", b""),
    "unpaid": openai_refusal("429 Too Many Requests", "You exceeded your current quota", None, "insufficient_quota"),
    "come_back_tomorrow": ("429 Too Many Requests\r\nRetry-After: 86400", "text/plain", b"Rate limit reached\n"),
    # FastAPI's, of a server that refuses unknown fields.
    "strange_field": as_json(
        {"detail": [{"type": "missing", "loc": ["body", "session"], "msg": "Field required", "input": {}}]},
        "422 Unprocessable Entity",
    ),
    # LM Studio's.
    "no_memory": refusal(
        "400 Bad Request", "Failed to load model: insufficient system resources", "invalid_request_error"
    ),
}

# The parts of streams that end properly in HTTP.
STREAMED: dict[str, tuple[bytes, ...]] = {
    "good": (*BEGUN, STOP, USAGE, DONE),
    "finish_only": (*BEGUN, delta({}, reason="length")),
    "done_only": (*BEGUN, DONE),
    "babbles_on": (*BEGUN, STOP, b"data: {oops\n", b"<b>what?</b>\n"),
    "nothing": (),
    "unfinished": BEGUN,
    "half_a_line": (*BEGUN, token(" lost")[:40]),
    "malformed": (*BEGUN, b'data: {"choices":[{"delta":{"content":"My dar\n\n'),
    "other_shape": (*BEGUN, b'data: {"choices":[{"delta":{"content":17}}]}\n\n'),
    "deep": (b'data: {"choices":' + b"[" * 500_000 + b"\n\n",),
    "error_object": (*BEGUN, b"data: " + compact({"error": {"code": 500, "message": "out of memory"}}) + b"\n\n"),
    # The format of older llama-servers.
    "error_line": (*BEGUN, b"error: " + compact({"code": 500, "message": "slot was lost"}) + b"\n\n"),
    "several_entries": (
        delta({"content": "One fine day"}, entry("One"), entry(" fine", -0.25), entry(" day")),
        delta({"content": "é!"}, entry(b"\xc3"), entry(b"\xa9", -0.25), entry("!")),
        delta({"content": "cleaned"}, entry(" cle"), entry("aned\n")),
        STOP,
        DONE,
    ),
    # The first half has logprobs and no text, the second half has the whole text.
    "split_character": (delta({"content": ""}, entry(b"\xc3")), delta({"content": "é"}, entry(b"\xa9")), STOP, DONE),
    "thinking": (
        ROLE,
        delta({"reasoning_content": "Hm"}, entry("Hm")),
        delta({"reasoning": ", "}, entry(", ")),
        delta({"thinking": "so"}, entry("so")),
        delta({"content": ""}, entry(b"\xc3")),
        delta({"content": "Yes", "reasoning_content": "!"}, entry("Yes")),
        delta({"content": ".", "reasoning_content": None}, entry(".")),
        STOP,
        DONE,
    ),
    # Stand-ins of speculative decoding, zeros, null, NaN, none, one token twice and above 0, two that look the same.
    "doubtful_logprobs": (
        delta({"content": "a"}, {**listed("a", 0.0), "top_logprobs": []}),
        delta({"content": "b"}, entry("b", 0.0, listed("b", 0.0), listed("c", 0.0))),
        delta({"content": "c"}, entry("c", None)),
        delta({"content": "d"}, entry("d", math.nan, listed("d", math.nan), listed("e", -1.0))),
        delta({"content": "e"}),
        delta({"content": "f"}, entry("f", 0.125, listed("f", 0.125), listed("g", math.nan), listed("f", -0.125))),
        delta({"content": "g"}, entry("g", 0.0, listed("g", 0.0))),
        delta({"content": "h"}, entry("h", -0.5, listed("", -1.0, 1), listed("", -2.0, 2))),
        STOP,
        DONE,
    ),
    # vLLM: several tokens in a chunk, -9999 for minus infinity, and for a token whose logprob it has lost.
    "vllm": (
        delta({"role": "assistant", "content": ""}),
        delta({"content": "One fine"}, entry("One", -0.25), entry(" fine", -0.5, listed(" fine", -0.5), FLOORED)),
        delta({"content": " day"}, {**listed(" day", -9999.0), "top_logprobs": []}),
        delta({"content": "s"}, entry("s", -9999.0, listed("s", -9999.0), listed("ly", -0.125))),
        delta({"content": "!"}, entry("!"), reason="stop"),
        DONE,
    ),
    # vLLM before 0.10 in the middle of a stream, which then continues.
    "vllm_error": (
        *BEGUN,
        b"data: " + compact({"object": "error", "message": "CUDA is gone", "code": 500}) + b"\n\n",
        DONE,
    ),
    # LM Studio.
    "unloaded": (*BEGUN, b"event: error\ndata: " + compact({"error": {"message": "Model unloaded."}}) + b"\n\n"),
    "unmeasured": (ROLE, *(delta({"content": text}) for text in GOOD_TEXTS), STOP, DONE),
    "too_large": (
        b'data: {"choices":[{"delta":{"content":"a"},"logprobs":{"content":[{"token":"a","logprob":-1e999}]}}]}\n\n',
    ),
    "tags": (*map(token, ("<thi", "nk>The user", " greets.</th", "ink>", "Hello")), STOP, DONE),
    "only_thinks": (*(delta({"reasoning_content": text}) for text in GOOD_TEXTS), delta({}, reason="length"), DONE),
    "only_refuses": (*(delta({"refusal": text}) for text in GOOD_TEXTS), STOP, DONE),
    "filtered": (ROLE, delta({}, reason="content_filter"), DONE),
    "odd_logprobs": (*(event({"delta": {"content": text}, "logprobs": -0.25}) for text in GOOD_TEXTS), STOP, DONE),
    # Lone surrogates, as JavaScript servers send them.
    "half_characters": (
        b'data: {"choices":[{"delta":{"content":"a\\ud83d"},"logprobs":{"content":[{"token":"a\\ud83d","logprob":-1,'
        b'"top_logprobs":[{"token":"\\ude00","logprob":-1}]}]}}]}\n\n',
        STOP,
        DONE,
    ),
}


def no_logprobs(body: dict[str, Any]) -> Whole | None:
    """llama-server with tools, and servers without logprobs."""
    if "logprobs" not in body and "top_logprobs" not in body:
        return None
    return refusal("400 Bad Request", "logprobs is not supported with tools + stream", "invalid_request_error")


def few_logprobs(body: dict[str, Any]) -> Whole | None:
    """vLLM with --max-logprobs 5."""
    asked = body.get("top_logprobs", 0)
    if asked <= 5:
        return None
    return vllm_refusal(f"Requested sample logprobs of {asked}, which is greater than max allowed: 5")


def reasoner(body: dict[str, Any]) -> Whole | None:
    """OpenAI's reasoning models."""
    if "logprobs" in body:
        return openai_refusal("403 Forbidden", "You are not allowed to request logprobs from this model", None, None)
    if "max_tokens" not in body:
        return None
    message = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    return openai_refusal("400 Bad Request", f"Unsupported parameter: {message}", "max_tokens", "unsupported_parameter")


def no_usage(body: dict[str, Any]) -> Whole | None:
    """Mistral's message."""
    if "stream_options" not in body:
        return None
    detail = [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]
    return as_json({"object": "error", "message": {"detail": detail}}, "422 Unprocessable Entity")


def stubborn(body: dict[str, Any]) -> Whole | None:
    """Refuses everything with a message about logprobs."""
    return refusal("400 Bad Request", "top_logprobs must be 2 at most", "invalid_request_error")


# The refusal of a request; None where it is accepted, and answered with logprobs if it asks for them.
REFUSING: dict[str, Callable[[dict[str, Any]], Whole | None]] = {
    refuse.__name__: refuse for refuse in (no_logprobs, few_logprobs, reasoner, no_usage, stubborn)
}


async def loading(answer: Answer) -> None:
    if answer.number <= LOADING_ANSWERS:
        await answer.whole(*WHOLE["loading_for_ever"])
    else:
        await answer.stream(*STREAMED["good"])


async def crowded(answer: Answer) -> None:
    if answer.number <= CROWDED_ANSWERS:
        more = "\r\nRetry-After: 0" if answer.number == 1 else ""
        await answer.whole(f"429 Too Many Requests{more}", *WHOLE["come_back_tomorrow"][1:])
    else:
        await answer.stream(*STREAMED["good"])


async def locked(answer: Answer) -> None:
    """Rejects every key, and quotes it whole, as OpenAI quotes parts of it."""
    sent = next((line for line in answer.head.split("\r\n") if line.lower().startswith("authorization: bearer")), "")
    key = sent.rpartition(" ")[2]
    message = (
        f"Incorrect API key provided: {key}. It ends with {key[-12:]}. You can find yours at ..." if key else "No key"
    )
    await answer.whole(*openai_refusal("401 Unauthorized", message, None, "invalid_api_key"))


async def endless_line(answer: Answer) -> None:
    await answer.stream(b"data: ")
    while True:
        await answer.part(b"x" * 65_536)


async def closed(answer: Answer) -> None:
    """Without the end of the HTTP response."""
    await answer.stream(*BEGUN)
    answer.chunked = False


async def reset(answer: Answer) -> None:
    await answer.stream(*BEGUN)
    answer.chunked = False
    answer.writer.transport.abort()


async def broken_chunk(answer: Answer) -> None:
    """A chunk with a length that is not a number, after valid ones."""
    await answer.stream(*BEGUN)
    answer.chunked = False
    await asyncio.sleep(PING_S)
    await answer.raw(b"zz\r\nwhat?\r\n")
    await answer.until_left()


async def no_http(answer: Answer) -> None:
    await answer.raw(b"SSH-2.0-OpenSSH_9.6\r\n")
    await answer.until_left()


async def long_header(answer: Answer) -> None:
    await answer.raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000)
    await answer.until_left()


async def hangs_up(answer: Answer) -> None:
    """Takes the request and closes the connection without an answer."""


async def never(answer: Answer) -> None:
    await answer.until_left()


async def silent(answer: Answer) -> None:
    await answer.stream(*BEGUN)
    await answer.until_left()


async def waits(answer: Answer) -> None:
    await answer.stream(*BEGUN)
    await answer.goes_on.wait()
    for part in (token(" for"), token(" lists"), STOP, USAGE, DONE):
        await answer.part(part)


async def only_pings(answer: Answer) -> None:
    await answer.stream(*BEGUN)
    while True:
        await answer.part(PING)
        await asyncio.sleep(PING_S)


async def slow_to_begin(answer: Answer) -> None:
    await answer.stream()
    for _ in range(PINGS_BEFORE_BEGINNING):
        await answer.part(PING)
        await asyncio.sleep(PING_S)
    for part in STREAMED["good"]:
        await answer.part(part)


async def repeats_its_reason(answer: Answer) -> None:
    """Slowly: the second reason shows that the first one was none."""
    await answer.stream()
    for text in GOOD_TEXTS:
        await answer.part(delta({"content": text}, reason="length"))
        await asyncio.sleep(10 * PING_S)
    await answer.part(DONE)


async def compresses(answer: Answer) -> None:
    """As gzip, in parts of a few bytes, and without the end that gzip has."""
    encoder = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    body = b"".join(encoder.compress(part) + encoder.flush(zlib.Z_SYNC_FLUSH) for part in STREAMED["good"])
    await answer.raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
    answer.chunked = True
    for at in range(0, len(body), 50):
        await answer.part(body[at : at + 50])


async def compresses_otherwise(answer: Answer) -> None:
    await answer.raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 4\r\n\r\n\x1b\x00\x00\x00")


async def finishes_and_stays(answer: Answer) -> None:
    await answer.stream(*BEGUN, delta({}, reason="content_filter\n" + "x" * 100))
    await answer.until_left()


SPECIAL: dict[str, Behaviour] = {
    behaviour.__name__: behaviour
    for behaviour in (
        loading,
        crowded,
        locked,
        endless_line,
        closed,
        reset,
        broken_chunk,
        no_http,
        long_header,
        hangs_up,
        never,
        silent,
        waits,
        only_pings,
        slow_to_begin,
        repeats_its_reason,
        compresses,
        compresses_otherwise,
        finishes_and_stays,
    )
}


async def behave(model: str, answer: Answer) -> None:
    if model in SPECIAL:
        await SPECIAL[model](answer)
    elif model in WHOLE:
        await answer.whole(*WHOLE[model])
    elif model in REFUSING:
        if refused := REFUSING[model](answer.body):
            await answer.whole(*refused)
        else:
            await answer.stream(*STREAMED["good" if "logprobs" in answer.body else "unmeasured"])
    else:
        await answer.stream(*STREAMED[model])


@asynccontextmanager
async def faulty_server() -> AsyncIterator[FaultyServer]:
    """The server on a free loopback port, until the context ends."""
    state = FaultyServer()
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        state.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if head.startswith("GET "):
                state.looks.append(head)
                path = head.split()[1]
                if path in state.hangs:
                    await reader.read()
                    return
                await Answer(0, reader, writer, head, {}).whole(*state.says.get(path, WHOLE["not_found"]))
                return
            length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
            body = json.loads(await reader.readexactly(int(length.partition(":")[2])))
            state.heads.append(head)
            state.bodies.append(body)
            state.asked[body["model"]] += 1
            answer = Answer(state.asked[body["model"]], reader, writer, head, body, state.goes_on)
            await behave(body["model"], answer)
            if answer.chunked:
                await answer.raw(b"0\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has closed the connection
        finally:
            state.connections -= 1
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
