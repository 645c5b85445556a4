"""`python -m bench.stream_reader KIND URL MODEL`: reads one answer of a model server, in a process of its own.

    bytes    httpx alone: the received bytes are thrown away
    json     httpx as a program would use it: each line through json.loads
    backend  the council's backend for such servers, whose chunks are thrown away

It prints "ready" when the answer has begun, and ends when its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator

import httpx
import uvloop

from bench.members import PROMPT
from bench.module_process import READY
from producers.backend import Request
from producers.openai.backend import OpenAIBackend
from producers.source import ModelSource
from schemas.sessions import MAX_TOKENS_LIMIT, Sampling

KINDS = ("bytes", "json", "backend")


async def _through_backend(url: str, model: str) -> AsyncGenerator[object, None]:
    backend = OpenAIBackend(model, ModelSource("openai", model, url))
    await backend.start()
    request = Request(PROMPT, "", MAX_TOKENS_LIMIT, 0.0, None, Sampling().top_k, silence_ms=30_000)
    try:
        async for item in backend.generate(request):
            yield item
    finally:
        await backend.close()


async def _through_httpx(url: str, model: str, *, as_json: bool) -> AsyncGenerator[object, None]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": MAX_TOKENS_LIMIT,
        "logprobs": True,
        "top_logprobs": Sampling().top_k,
        "stream": True,
    }
    async with (
        httpx.AsyncClient(trust_env=False, timeout=None) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body) as response,
    ):
        if as_json:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))
        else:
            async for data in response.aiter_raw():
                yield data


async def _read(kind: str, url: str, model: str) -> None:
    items = _through_backend(url, model) if kind == "backend" else _through_httpx(url, model, as_json=kind == "json")
    has_begun = False
    async with contextlib.aclosing(items):
        async for _ in items:
            if not has_begun:
                has_begun = True
                print(READY, flush=True)


async def _read_until_input_ends(kind: str, url: str, model: str) -> None:
    reading = asyncio.create_task(_read(kind, url, model))
    # A thread that reads it would keep this process alive after an error, without a line for the process that waits.
    asyncio.get_running_loop().add_reader(0, reading.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await reading


def main() -> None:
    kind, url, model = sys.argv[1:]
    uvloop.run(_read_until_input_ends(kind, url, model))


if __name__ == "__main__":
    main()
