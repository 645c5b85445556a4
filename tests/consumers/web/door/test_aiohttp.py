"""The parts of aiohttp that its documentation does not describe and the web process uses, with the installed version.

Where they are used, and the other tests that fail if they change:

    RequestHandler.finish_response   door/connections.py     test_a_client_that_still_receives_a_response_is_not_idle
    RequestHandler.handle_error      door/connections.py     test_bytes_that_are_not_http_get_one_sentence_and_the_…
    Server.request_handler           door/connections.py     test_a_request_with_expect_is_refused_before_its_body
    writing to request.transport     live/sockets.py         tests/consumers/web/live/test_protocol_socket.py
                                     live/event_stream.py    tests/consumers/web/live/test_event_stream.py
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import re
import socket
import tomllib

from aiohttp import web
from packaging.requirements import Requirement

from consumers.web.door.connections import Connections
from tests.support.project import ROOT


def test_the_installed_version_is_within_bounds_and_there_is_an_upper_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bounds,) = [Requirement(one).specifier for one in project["dependencies"] if re.match(r"aiohttp\b", one)]
    assert importlib.metadata.version("aiohttp") in bounds
    assert "<" in {bound.operator for bound in bounds}


async def test_the_overridden_methods_exist_with_these_parameters() -> None:
    expected = {
        "finish_response": ["self", "request", "resp", "start_time"],
        "handle_error": ["self", "request", "status", "exc", "message"],
    }
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(web.RequestHandler, name)).parameters) == parameters
    assert "request_handler" in vars(web.Server(lambda request: None))  # type: ignore[arg-type,return-value]


async def test_each_response_of_a_connection_passes_finish_response_once() -> None:
    """Three responses over one connection: it is busy inside the handler and idle after each response."""
    busy_in_handler: list[int] = []
    finished: list[web.RequestHandler] = []

    class CountingConnections(Connections):
        def rest(self, connection: web.RequestHandler) -> None:
            finished.append(connection)
            super().rest(connection)

    connections = CountingConnections(most=3)

    async def answer(_request: web.Request) -> web.Response:
        busy_in_handler.append(len(connections._busy))
        return web.Response(text="x")

    application = web.Application(middlewares=[connections.middleware])
    application.router.add_get("/", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    assert runner.server is not None
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    accepting = await connections.listen(runner.server, listening)
    try:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        for number in range(1, 4):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(10):
                assert (await reader.readuntil(b"\r\n\r\nx")).startswith(b"HTTP/1.1 200 OK")
            assert (len(finished), len(connections._idle), len(connections._busy)) == (number, 1, 0)
        assert busy_in_handler == [1, 1, 1]
        writer.close()
    finally:
        accepting.close()
        await runner.cleanup()
