"""`python -m bench.pacer UPSTREAM TOKENS_PER_S`: a model server's own answer, event by event, at a steady pace.

    clients <--one event each 1 / TOKENS_PER_S s-- pacer <--once, as fast as it can-- llama.cpp's server

A tiny model writes thousands of tokens a second, and what a token costs its reader depends on how many come together.
Here each comes alone, in the bytes that the server sent, and as that server sends them: one HTTP chunk, one write. The
answer is there before it is handed out, so the server does not disturb. It prints its URL and the mean size of an
event, and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import httpx
import uvloop

from schemas.sessions import MAX_TOKENS_LIMIT, Sampling

_END = b"\n\n"
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class _Pacer:
    """Hands out one recorded answer to whoever asks, each at its own time."""

    def __init__(self, upstream: httpx.AsyncClient, events: list[bytes], tokens_per_s: float) -> None:
        self._upstream, self._events, self._interval_s = upstream, events, 1.0 / tokens_per_s

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request on a connection of its own. Whoever has measured enough hangs up."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            method, path, _ = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)
            await (self._look(path, writer) if method == "GET" else self._chat(writer))
        writer.close()

    async def _look(self, path: str, writer: asyncio.StreamWriter) -> None:
        """What a client asks of the server before it begins goes to the server."""
        told = await self._upstream.get(path)
        head = f"HTTP/1.1 {told.status_code} .\r\nContent-Length: {len(told.content)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + told.content)
        await writer.drain()

    async def _chat(self, writer: asyncio.StreamWriter) -> None:
        """The recorded answer, whatever was asked."""
        writer.write(_STREAM)
        clock = asyncio.get_running_loop().time
        began = clock()
        for number, event in enumerate(self._events):
            await asyncio.sleep(began + number * self._interval_s - clock())
            if writer.is_closing():
                return
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _recorded(upstream: httpx.AsyncClient) -> list[bytes]:
    """The events of the longest answer, at temperature 0, where the tiny model never stops by itself."""
    body = {
        "messages": [{"role": "user", "content": "How long does it take?"}],
        "max_tokens": MAX_TOKENS_LIMIT,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": Sampling().top_k,
        "stream": True,
    }
    answer = (await upstream.post("/v1/chat/completions", json=body)).raise_for_status()
    return [event + _END for event in answer.content.split(_END) if event]


async def _serve(url: str, tokens_per_s: float) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=None) as upstream:
        events = await _recorded(upstream)
        server = await asyncio.start_server(_Pacer(upstream, events, tokens_per_s).answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        print(f"http://{host}:{port}", sum(map(len, events)) // len(events), flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> None:
    uvloop.run(_serve(sys.argv[1], float(sys.argv[2])))


if __name__ == "__main__":
    main()
