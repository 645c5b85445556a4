"""One question to llama.cpp's server over its unix socket, and the answer: a connection each.

A kept connection saves a tenth of a millisecond; but that server ends it after 100 questions and after five silent
seconds, and closing one is how a question is taken back.
"""

from __future__ import annotations

import asyncio

import msgspec

from producers.chat_stream import ServerFault, one_line

# The longest answer has the logprobs of a whole vocabulary, some 100 bytes each.
MAX_ANSWER_BYTES = 64 << 20
_READ_BYTES = 1 << 16
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
        parts, size = [], 0
        while part := await reader.read(_READ_BYTES):
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise ServerFault(f"answered with more than {MAX_ANSWER_BYTES >> 20} MiB")
    finally:
        writer.transport.abort()
    return body_of(b"".join(parts))


def request(path: str, question: object | None = None) -> bytes:
    """The bytes that ask: POST where there is a question, else GET."""
    body = b"" if question is None else msgspec.json.encode(question)
    head = f"{'GET' if question is None else 'POST'} {path} HTTP/1.1\r\nHost: llama\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def body_of(answer: bytes) -> bytes:
    """The body of an HTTP answer. Raises ServerFault for a refusal, ConnectionError for what is not whole."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    words = status.split()
    pairs = (field.partition(b":") for field in fields)
    lengths = [value.strip() for name, _, value in pairs if name.lower() == b"content-length"]
    if len(words) < 2 or lengths != [b"%d" % len(body)]:
        raise ConnectionResetError("The answer ends in its middle.")
    if words[1] != _OK:
        raise ServerFault(f"refuses: {_reason(body) or 'it does not say why'}")
    return body


def _reason(body: bytes) -> str:
    try:
        message = msgspec.json.decode(body, type=_Refused).error.message
    except msgspec.MsgspecError:
        return ""
    return one_line(message.rpartition(_TEMPLATE_SAYS)[2], _MAX_REASON_CHARS)
