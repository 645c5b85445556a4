"""`python -m bench.chat_client URL MODEL COUNT`: COUNT chats at once, whose streams are read and thrown away.

The process prints "ready" when each has begun, and how many events a second arrived since then when its standard input
ends. A stream that ends before is an error: the measurement is not valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import uvloop

from bench.members import PROMPT
from bench.module_process import READY
from schemas.sessions import MAX_TOKENS_LIMIT

CHAT = "/v1/chat/completions"
_EVENT_END = b"\n\n"
_LONGEST_S = 60.0


def chat_body(model: str, max_tokens: int) -> dict[str, object]:
    """A chat as most clients send it, without logprobs."""
    messages = [{"role": "user", "content": PROMPT}]
    return {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0, "stream": True}


def first_text_s(url: str, model: str, max_tokens: int) -> float:
    """The seconds from the beginning of a chat, with its connection, to its first text; the chat is read to its end.
    Raises RuntimeError where it has no text."""
    began_s, first_s = time.perf_counter(), 0.0
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=_LONGEST_S)) as connection:
        body = json.dumps(chat_body(model, max_tokens))
        connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if not first_s and line.startswith(b"data: {"):
                (choice,) = json.loads(line.removeprefix(b"data: "))["choices"]
                if choice["delta"].get("content"):
                    first_s = time.perf_counter() - began_s
    if not first_s:
        raise RuntimeError(f"{url} answers {model} without text")
    return first_s


class _ChatStreams:
    """Several streams, and how many events of them arrived."""

    def __init__(self, count: int) -> None:
        self.events, self._waiting = 0, count
        self.have_begun = asyncio.Event()

    async def read_all(self, client: aiohttp.ClientSession, model: str) -> None:
        """Raises RuntimeError where a stream ends."""
        await asyncio.gather(*(self._read(client, model) for _ in range(self._waiting)))

    async def _read(self, client: aiohttp.ClientSession, model: str) -> None:
        async with client.post(CHAT, json=chat_body(model, MAX_TOKENS_LIMIT)) as response:
            response.raise_for_status()
            has_begun = False
            async for data in response.content.iter_any():
                self.events += data.count(_EVENT_END)
                if not has_begun:
                    has_begun = True
                    self._waiting -= 1
                    if not self._waiting:
                        self.have_begun.set()
        raise RuntimeError(f"an answer of {model} has ended")


async def _read_until_input_ends(url: str, model: str, count: int) -> None:
    streams = _ChatStreams(count)
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=None)) as client:
        reading = asyncio.create_task(streams.read_all(client, model))
        asyncio.get_running_loop().add_reader(0, reading.cancel)
        either: set[asyncio.Task[Any]] = {reading, asyncio.create_task(streams.have_begun.wait())}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            await reading
        before, began_s = streams.events, time.monotonic()
        print(READY, flush=True)
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        print(round((streams.events - before) / (time.monotonic() - began_s)))


def main() -> None:
    uvloop.run(_read_until_input_ends(sys.argv[1], sys.argv[2], int(sys.argv[3])))


if __name__ == "__main__":
    main()
