"""One question to llama.cpp's server over its unix socket, and the answer, whole or as a stream: a connection each.

A kept connection saves a tenth of a millisecond; but that server ends it after 100 questions and after five silent
seconds, and closing one is how a question is taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from producers.servers.faults import ServerFault, one_line

# The longest answer has the logprobs of a whole vocabulary, some 100 bytes each.
MAX_ANSWER_BYTES = 64 << 20
_READ_BYTES = 1 << 16
# A stretch of tokens with the longest lists has some 200 KiB. It is read whether its tokens are taken or not, so that
# the server is done with it.
_READ_AHEAD_BYTES = 1 << 20
_EVENT = b"data: "
_MAX_REASON_CHARS = 200
_OK = b"200"
# Behind it a chat template's own words, before it the place in the template.
_TEMPLATE_SAYS = "\nError: "


class _Refusal(msgspec.Struct):
    message: str = ""


class _Refused(msgspec.Struct):
    error: _Refusal


async def answer_of(socket: str, path: str, question: object | None = None) -> bytes:
    """The body of the answer. Raises ServerFault with the server's own words, OSError where there is no server (more).

    Cancelling takes the question back: the server stops with the batch of tokens that it computes.
    """
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(request(path, question))
        return body_of(await _read_to_end(reader))
    finally:
        writer.transport.abort()


async def events_of(socket: str, path: str, question: object) -> AsyncGenerator[bytes, None]:
    """The data of each event of a streamed answer. Raises ServerFault with the server's own words, OSError where there
    is no server (more). Closing it takes the question back."""
    reader, writer = await asyncio.open_unix_connection(socket, limit=_READ_AHEAD_BYTES)
    try:
        writer.write(request(path, question))
        head = await reader.readuntil(b"\r\n\r\n")
        if _status(head) != _OK:
            body_of(head + await _read_to_end(reader))
        rest = b""
        while size := int(await reader.readline(), 16):
            *lines, rest = (rest + await reader.readexactly(size)).split(b"\n")
            await reader.readline()
            for line in lines:
                if line.startswith(_EVENT):
                    yield line[len(_EVENT) :]
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        raise ConnectionResetError("The stream ends in its middle.") from None
    finally:
        writer.transport.abort()


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    parts, size = [], 0
    while part := await reader.read(_READ_BYTES):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise ServerFault(f"answered with more than {MAX_ANSWER_BYTES >> 20} MiB")
    return b"".join(parts)


def request(path: str, question: object | None = None) -> bytes:
    """The bytes that ask: POST where there is a question, else GET."""
    body = b"" if question is None else msgspec.json.encode(question)
    head = f"{'GET' if question is None else 'POST'} {path} HTTP/1.1\r\nHost: llama\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def body_of(answer: bytes) -> bytes:
    """The body of an HTTP answer. Raises ServerFault for a refusal, ConnectionError for what is not whole."""
    head, _, body = answer.partition(b"\r\n\r\n")
    _, *fields = head.split(b"\r\n")
    pairs = (field.partition(b":") for field in fields)
    lengths = [value.strip() for name, _, value in pairs if name.lower() == b"content-length"]
    if not _status(answer) or lengths != [b"%d" % len(body)]:
        raise ConnectionResetError("The answer ends in its middle.")
    if _status(answer) != _OK:
        raise ServerFault(f"refuses: {_reason(body) or 'it does not say why'}")
    return body


def _status(answer: bytes) -> bytes:
    """The status code; empty where there is none."""
    words = answer.partition(b"\r\n")[0].split()
    return words[1] if len(words) > 1 else b""


def _reason(body: bytes) -> str:
    try:
        message = msgspec.json.decode(body, type=_Refused).error.message
    except msgspec.MsgspecError:
        return ""
    return one_line(message.rpartition(_TEMPLATE_SAYS)[2], _MAX_REASON_CHARS)
