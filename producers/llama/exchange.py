"""One request to llama.cpp's server over its unix socket, and the answer, whole or as a stream; a connection for each.

A kept connection would save a tenth of a millisecond; but that server closes it after 100 requests and after five
seconds of silence, and closing a connection is how a request is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from producers.servers.events import Events
from producers.servers.faults import MAX_MESSAGE_CHARS, ServerFault, one_line

# The longest answer has the logprobs of a whole vocabulary, some 100 bytes each.
MAX_ANSWER_BYTES = 64 << 20
_READ_BYTES = 1 << 16
# A stretch of tokens with the longest lists has some 200 KiB. It is read whether its tokens are taken or not, so that
# the server finishes it.
_READ_AHEAD_BYTES = 1 << 20
_OK = b"200"
# A chat template's message follows it; the position in the template is before it.
_TEMPLATE_ERROR = "\nError: "


class _RefusalError(msgspec.Struct):
    message: str = ""


class _Refusal(msgspec.Struct):
    error: _RefusalError


async def answer_of(socket: str, path: str, question: object | None = None) -> bytes:
    """The body of the answer. Raises ServerFault with the server's message, OSError where no server listens.

    Cancelling cancels the request: the server stops after the batch of tokens that it computes.
    """
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(request(path, question))
        return body_of(await _read_to_end(reader))
    finally:
        writer.transport.abort()


async def events_of(socket: str, path: str, question: object) -> AsyncGenerator[bytes, None]:
    """The data of each event of a streamed answer. Raises ServerFault with the server's message, OSError where no
    server listens. Closing the iterator cancels the request."""
    reader, writer = await asyncio.open_unix_connection(socket, limit=_READ_AHEAD_BYTES)
    try:
        writer.write(request(path, question))
        head = await reader.readuntil(b"\r\n\r\n")
        if _status(head) != _OK:
            body_of(head + await _read_to_end(reader))
        events = Events()
        while size := int(await reader.readline(), 16):
            data = await reader.readexactly(size)
            await reader.readline()
            for event in events.feed(data):
                yield event.data
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        raise ConnectionResetError("The stream is not complete.") from None
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
    """The bytes of the request: POST where there is a question, else GET."""
    body = b"" if question is None else msgspec.json.encode(question)
    head = f"{'GET' if question is None else 'POST'} {path} HTTP/1.1\r\nHost: llama\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def body_of(answer: bytes) -> bytes:
    """The body of an HTTP answer. Raises ServerFault for a refusal, ConnectionError where it is not complete."""
    head, _, body = answer.partition(b"\r\n\r\n")
    _, *fields = head.split(b"\r\n")
    pairs = (field.partition(b":") for field in fields)
    lengths = [value.strip() for name, _, value in pairs if name.lower() == b"content-length"]
    if not _status(answer) or lengths != [b"%d" % len(body)]:
        raise ConnectionResetError("The answer is not complete.")
    if _status(answer) != _OK:
        reason = _reason(body)
        raise ServerFault(f"refused the request{f': {reason}' if reason else ' without a reason'}")
    return body


def _status(answer: bytes) -> bytes:
    """The status code; empty where the head is not complete."""
    words = answer.partition(b"\r\n")[0].split()
    return words[1] if len(words) > 1 else b""


def _reason(body: bytes) -> str:
    try:
        message = msgspec.json.decode(body, type=_Refusal).error.message
    except msgspec.MsgspecError:
        return ""
    return one_line(message.rpartition(_TEMPLATE_ERROR)[2], MAX_MESSAGE_CHARS)
