"""`python -m runtime.relay PORT HOST:PORT`: passes TCP connections on, so that several web processes have one address.

A name may have several addresses, as the name of a scaled service has: each connection goes to the first one that
accepts it, and the name's server returns them in another order each time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

from runtime.role import run_role, stop_event

# What one direction of a connection holds at most: with more, the faster side waits.
_MOST_BYTES = 64 * 1024
_CONNECT_S = 5.0


async def relay(port: int, target: str) -> None:
    """Relays until SIGTERM or SIGINT."""
    host, _, target_port = target.rpartition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                async with asyncio.timeout(_CONNECT_S):
                    found = await asyncio.open_connection(host, int(target_port), limit=_MOST_BYTES)
            except OSError:  # no process accepts connections now, or in time
                return
            with contextlib.closing(found[1]):
                try:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(_pass(reader, found[1]))
                        both.create_task(_pass(found[0], writer))
                except* OSError:
                    pass  # one side broke the connection: the other one is closed, too

    stopping = stop_event()
    server = await asyncio.start_server(serve, "0.0.0.0", port, limit=_MOST_BYTES, backlog=1024)
    await stopping.wait()
    server.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes bytes on until the reader's end. Raises OSError where one side broke the connection."""
    while part := await reader.read(_MOST_BYTES):
        writer.write(part)
        await writer.drain()
    writer.write_eof()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m runtime.relay", description=__doc__)
    parser.add_argument("port", type=int, help="the port to listen on, on all addresses")
    parser.add_argument("target", metavar="HOST:PORT", help="where the connections go")
    arguments = parser.parse_args()
    return run_role(relay(arguments.port, arguments.target))


if __name__ == "__main__":
    sys.exit(main())
