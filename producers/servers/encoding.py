"""The body of an answer whose Content-Encoding a server or a proxy chose, although we ask for none.

gzip and deflate are decoded as they arrive, however they are cut, with a bound on what one step may produce. Any other
encoding is refused by its name.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator

import httpx

from producers.servers.faults import ServerFault, one_line

# A compressed byte may become a thousand: more than a read of the network in one step is not made of it.
MOST_AT_ONCE = 1 << 16
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


async def decoded_parts(response: httpx.Response) -> AsyncIterator[bytes]:
    """The parts of the body, decoded. Raises ServerFault, httpx.TransportError."""
    decoders = [_Inflation(name) for name in encodings(response.headers.get("content-encoding", ""))]
    async for part in response.aiter_raw():
        if not decoders:
            yield part
            continue
        parts: Iterator[bytes] = iter((part,))
        for decoder in decoders:
            parts = decoder.decoded(parts)
        for decoded in parts:
            yield decoded


def encodings(header: str) -> list[str]:
    """The encodings to decode, the one that was applied last first. Raises ServerFault for one that is not known."""
    names = [name.strip().lower().removeprefix("x-") for name in header.split(",")]
    names = [name for name in names if name not in ("", "identity", "none", "utf-8", "chunked")]
    for name in names:
        if name not in ("gzip", "deflate"):
            raise ServerFault(
                f"compressed its answer with {one_line(name, 20)!r}, which was not asked for: "
                "turn compression off in the server or in the proxy before it"
            )
    return names[::-1]


class _Inflation:
    """One encoding. `deflate` is zlib's format, or what some servers take for it: without head and checksum."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._decoder = zlib.decompressobj(_GZIP if name == "gzip" else _ZLIB)
        self._start = b"" if name == "deflate" else None

    def decoded(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        """What these parts become, in steps. Raises ServerFault."""
        for part in parts:
            data, step = self._begun(part), b""
            # After a full step, more may be left inside the decoder than there is data.
            while data or len(step) == MOST_AT_ONCE:
                try:
                    step = self._decoder.decompress(data, MOST_AT_ONCE)
                except zlib.error as error:
                    raise ServerFault(f"sent data that is not valid {self._name}") from error
                if step:
                    yield step
                data = self._decoder.unconsumed_tail
                if self._decoder.eof:
                    # A server may compress each part on its own.
                    data = self._decoder.unused_data
                    self._decoder = zlib.decompressobj(_GZIP if self._name == "gzip" else _ZLIB)

    def _begun(self, data: bytes) -> bytes:
        """The data, once it is known which kind of deflate it is: zlib's head is a multiple of 31."""
        if self._start is None:
            return data
        data = self._start + data
        if len(data) < 2:
            self._start = data
            return b""
        self._start = None
        if data[0] & 0x0F != zlib.DEFLATED or int.from_bytes(data[:2], "big") % 31:
            self._decoder = zlib.decompressobj(_RAW)
        return data
