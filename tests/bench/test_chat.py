"""The benchmark of chats: the proxy forwards what it gets, and the time to the first text is that of a text."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from bench.chat import _Cpu, _cpu_table, _first_table
from bench.chat_client import CHAT, chat_body, first_text_s
from bench.module_process import module_process

_ROLE = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
_TEXT = b'data: {"choices": [{"delta": {"content": "A"}}]}\n\n'
_DELAY_S = 0.2


class Upstream:
    """A model server whose first text comes 0.2 s after its first event; `asked` has the bodies of all requests."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_ROLE)
        if self.asked[-1]["model"] == "calm":
            await asyncio.sleep(_DELAY_S)
            await response.write(_TEXT)
        await response.write(b"data: [DONE]\n\n")
        return response


async def test_the_first_text_is_timed_directly_and_through_the_proxy() -> None:
    upstream = Upstream()
    app = web.Application()
    app.router.add_post(CHAT, upstream.chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}".format(*runner.addresses[0])
    try:
        with module_process("bench.chat_proxy", url) as proxy:
            for address in (url, await asyncio.to_thread(proxy.line)):
                began_s = time.perf_counter()
                first_s = await asyncio.to_thread(first_text_s, address, "calm", 5)
                assert _DELAY_S <= first_s <= time.perf_counter() - began_s
                with pytest.raises(RuntimeError, match="answers mute without text"):
                    await asyncio.to_thread(first_text_s, address, "mute", 5)
    finally:
        await runner.cleanup()
    assert upstream.asked == [chat_body(model, 5) for _ in range(2) for model in ("calm", "mute")]


@pytest.mark.parametrize(("more_ms", "ratio", "is_met"), [(3.0, 1.3, True), (3.1, 1.31, False)])
def test_the_aims_are_beside_the_direct_server_and_the_proxy(more_ms: float, ratio: float, is_met: bool) -> None:
    direct, proxy, council = "its own server", "a proxy that only forwards", "/v1, council:MEMBER"
    _, first = _first_table({direct: [2.0] * 3, proxy: [2.5] * 3, council: [2.0 + more_ms] * 3})
    used_s = {proxy: 1.0, "the web process": ratio, "Redis": 9.0}
    _, cpu = _cpu_table(_Cpu(used_s, {proxy: 200, "the web process": 200}), 10.0)
    assert (first.is_met, first.measured) == (is_met, f"{more_ms:.2f} ms")
    assert (cpu.is_met, cpu.measured) == (is_met, f"{ratio:.2f} times")
