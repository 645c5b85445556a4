"""`python -m bench.paced_server UPSTREAM TOKENS_PER_S`: a model server's answer, event by event, at a steady pace.

    clients <--an event each 1 / TOKENS_PER_S s-- paced server <--once, at full speed-- llama.cpp's server

A tiny model writes thousands of tokens a second, and the cost of a token for its reader depends on how many arrive
together. Here each arrives alone, in the bytes and in the form that the server sent: one HTTP chunk, one write. The
answer is complete before the first client connects, so llama.cpp's server uses no CPU meanwhile. There is one answer
with top lists, and one for requests without logprobs. The process prints its URL and the mean size of an event with its
list, and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys

import httpx
import uvloop

from bench.members import PROMPT
from schemas.sessions import MAX_TOKENS_LIMIT, Sampling

_END = b"\n\n"
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class _PacedServer:
    """Sends a recorded answer to each client, at each client's own pace: with top lists, or without."""

    def __init__(
        self, upstream: httpx.AsyncClient, events: list[bytes], plain: list[bytes], tokens_per_s: float
    ) -> None:
        self._upstream, self._events, self._plain, self._interval_s = upstream, events, plain, 1.0 / tokens_per_s

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request on a connection of its own. A client closes the connection when it has measured enough."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.decode().split(" ", 2)
            if method == "GET":
                await self._forward(path, writer)
            else:
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1]) if length else 0)
                await self._chat(self._events if b'"logprobs"' in body else self._plain, writer)
        writer.close()

    async def _forward(self, path: str, writer: asyncio.StreamWriter) -> None:
        """The upstream server's answer to a GET request, which clients send before they begin."""
        answer = await self._upstream.get(path)
        head = f"HTTP/1.1 {answer.status_code} .\r\nContent-Length: {len(answer.content)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + answer.content)
        await writer.drain()

    async def _chat(self, events: list[bytes], writer: asyncio.StreamWriter) -> None:
        """A recorded answer."""
        writer.write(_STREAM)
        clock = asyncio.get_running_loop().time
        began = clock()
        for number, event in enumerate(events):
            await asyncio.sleep(began + number * self._interval_s - clock())
            if writer.is_closing():
                return
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _recorded(upstream: httpx.AsyncClient, **logprobs: object) -> list[bytes]:
    """The events of the longest answer, at temperature 0, where the tiny model never stops by itself."""
    body = {
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": MAX_TOKENS_LIMIT,
        "temperature": 0.0,
        "stream": True,
        **logprobs,
    }
    answer = (await upstream.post("/v1/chat/completions", json=body)).raise_for_status()
    return [event + _END for event in answer.content.split(_END) if event]


async def _serve(url: str, tokens_per_s: float) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=None) as upstream:
        events = await _recorded(upstream, logprobs=True, top_logprobs=Sampling().top_k)
        paced = _PacedServer(upstream, events, await _recorded(upstream), tokens_per_s)
        server = await asyncio.start_server(paced.answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        print(f"http://{host}:{port}", sum(map(len, events)) // len(events), flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> None:
    uvloop.run(_serve(sys.argv[1], float(sys.argv[2])))


if __name__ == "__main__":
    main()
