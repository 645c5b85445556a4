"""A server on a real socket whose answers are exact bytes, by method and path.

    async with exact_server({"GET /v1/models": answer(b"{}")}) as server: ... server.url ... server.asked

An answer may be a list: one for each request, the last one for all others. An unknown path is a 404 in plain text; a
path with None is never answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Answers = Mapping[str, bytes | Sequence[bytes] | None]


@dataclass
class ExactServer:
    """`asked` are the requests as (method and path, body), in order; `heads` their heads."""

    answers: Answers
    url: str = ""
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    @property
    def questions(self) -> list[dict[str, Any]]:
        """The bodies of the requests for an answer."""
        return [json.loads(body) for path, body in self.asked if body and path.endswith(("/completions", "/chat"))]


def answer(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def stream(*texts: str, more: str = "") -> bytes:
    """An answer of chat completions, with one chunk for each text; `more` is in each choice."""
    lines = [
        f'data: {{"choices":[{{"index":0,"delta":{{"content":{json.dumps(text)}}}{more},"finish_reason":null}}]}}\n\n'
        for text in texts
    ]
    lines.append('data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    return answer("".join(lines).encode(), kind="text/event-stream")


@asynccontextmanager
async def exact_server(answers: Answers) -> AsyncIterator[ExactServer]:
    """The server on a free loopback port, until the context ends."""
    state = ExactServer(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            sizes = [int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:")]
            path = lines[0].rpartition(" ")[0]
            state.heads.append(head)
            state.asked.append((path, await reader.readexactly(sizes[0]) if sizes else b""))
            found = state.answers.get(path, answer(b"404 page not found", "404 Not Found", "text/plain"))
            if found is None:
                await reader.read()
                return
            if not isinstance(found, bytes):
                found = found[min(state.paths.count(path), len(found)) - 1]
            writer.write(found)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has closed the connection
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        listening.close()
