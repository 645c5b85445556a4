"""The relay: connections reach a process that accepts them, end with it, and never outlive either side."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from socket import SO_LINGER, SOL_SOCKET

from tests.support.clusters import free_port
from tests.support.role_processes import roles_on
from tests.support.waiting import until

_HOST = "127.0.0.1"


async def test_bytes_pass_both_ways_until_either_side_ends() -> None:
    ended = list[str]()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                while part := await reader.read(65_536):
                    writer.write(part)
                    await writer.drain()
                writer.write(b"end")
                ended.append("closed")
            except ConnectionResetError:
                ended.append("reset")

    port, target = free_port(), free_port()
    with roles_on("") as roles:
        relay = roles.start("runtime.relay", str(port), f"{_HOST}:{target}")

        async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(_HOST, port)
            return None

        pair = await until(connected, "the relay listens")
        assert pair is not None
        assert await pair[0].read() == b"", "without a process behind it a connection is closed"
        pair[1].close()
        async with await asyncio.start_server(echo, _HOST, target):
            reader, writer = await asyncio.open_connection(_HOST, port)
            # More than all buffers contain.
            sent = bytes(8 * 2**20)
            writing = asyncio.create_task(_send(writer, sent))
            assert await reader.readexactly(len(sent)) == sent
            await writing
            # One direction may end before the other one.
            writer.write_eof()
            assert await reader.read() == b"end"
            writer.close()
            _, broken = await asyncio.open_connection(_HOST, port)
            broken.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            broken.close()

            async def both() -> bool:
                return len(ended) == 2

            await until(both, "the process behind the relay notices that its client has gone")
        assert relay.end() == 0
        assert relay.log() == ""


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
