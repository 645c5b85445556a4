"""Reading a body: as much as may be, as long as may be."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web

from schemas.errors import Refused

# A body of 64 KiB over a slow line takes a second or two.
_BODY_S = 10.0


async def read_body(request: web.Request, most_s: float = _BODY_S) -> bytes:
    """The whole body. Raises Refused where it takes too long or is compressed, and aiohttp's own error where it is too
    large."""
    if hdrs.CONTENT_ENCODING in request.headers:
        raise Refused("unsupported_media_type", "Send the body as it is, not compressed.", status=415)
    try:
        async with asyncio.timeout(most_s):
            return await request.read()
    except TimeoutError:
        raise Refused(
            "body_too_slow", f"The body was not there after {most_s:g} s: send it in one go.", status=408
        ) from None
