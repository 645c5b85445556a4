"""Bodies that a server or a proxy compressed without being asked: decoded as they arrive, or refused."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest

from producers.servers.encoding import MOST_AT_ONCE, decoded_parts, encodings
from producers.servers.faults import ServerFault

PLAIN = b"".join(b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number for number in range(40))
ENCODED = {
    "gzip": gzip.compress(PLAIN),
    "x-gzip": gzip.compress(PLAIN[:40]) + gzip.compress(PLAIN[40:]),
    "deflate": zlib.compress(PLAIN),
    "Deflate": zlib.compress(PLAIN)[2:-4],
    "deflate, gzip": gzip.compress(zlib.compress(PLAIN)),
    "identity": PLAIN,
    "": PLAIN,
}


class Parts(httpx.AsyncByteStream):
    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part


async def decoded(header: str, parts: Sequence[bytes]) -> bytes:
    response = httpx.Response(200, headers={"Content-Encoding": header}, stream=Parts(parts))
    return b"".join([part async for part in decoded_parts(response)])


@pytest.mark.parametrize("header", ENCODED)
async def test_an_encoded_body_is_decoded_as_it_arrives(header: str) -> None:
    body = ENCODED[header]
    assert await decoded(header, [body]) == PLAIN
    assert await decoded(header, [body[at : at + 1] for at in range(len(body))]) == PLAIN
    # What is missing at the end costs nothing that came before it.
    assert PLAIN.startswith(await decoded(header, [body[:-12]]))


async def test_one_step_of_a_decoder_is_bounded() -> None:
    body = gzip.compress(b" " * (4 << 20))
    response = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Parts([body]))
    sizes = [len(part) async for part in decoded_parts(response)]
    assert (sum(sizes), max(sizes)) == (4 << 20, MOST_AT_ONCE)


@pytest.mark.parametrize("name", ["br", "zstd", "compress"])
def test_another_encoding_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ServerFault, match=f"compressed its answer with '{name}'"):
        encodings(f"gzip, {name}")


async def test_data_that_is_not_what_its_header_promises_is_a_fault() -> None:
    with pytest.raises(ServerFault, match="sent data that is not valid gzip"):
        await decoded("gzip", [PLAIN])
