"""`python -m bench.chat_proxy UPSTREAM`: a proxy that only forwards chats and their streams. It prints its URL.

    client --POST--> this process --the same bytes--> model server
           <--each chunk as it comes--

It is the limit for a process between a client and a model server: aiohttp on both sides and uvloop, as in the web
process. It serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import aiohttp
import uvloop
from aiohttp import hdrs, web


class _ChatProxy:
    def __init__(self, upstream: aiohttp.ClientSession) -> None:
        self._upstream = upstream

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """The upstream server's response to the same request."""
        headers = {hdrs.CONTENT_TYPE: request.content_type}
        async with self._upstream.post(request.path, data=await request.read(), headers=headers) as answer:
            response = web.StreamResponse(status=answer.status, headers={hdrs.CONTENT_TYPE: answer.content_type})
            # A client that has seen enough disconnects.
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                async for data in answer.content.iter_any():
                    await response.write(data)
                await response.write_eof()
            return response


async def _serve(url: str) -> None:
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=None)) as upstream:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", _ChatProxy(upstream).chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print("http://{}:{}".format(*runner.addresses[0]), flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)
        await runner.cleanup()


def main() -> None:
    uvloop.run(_serve(sys.argv[1]))


if __name__ == "__main__":
    main()
