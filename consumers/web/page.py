"""The page's files, read from the package once at the start."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from aiohttp import web
from aiohttp.typedefs import Handler

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_INDEX = "index.html"


def page_routes() -> list[web.RouteDef]:
    """`/` is index.html; the other files are at `/static/FOLDER/NAME`. Only these names are served."""
    return list(_routes(files("consumers.web") / "static", "/static"))


def _routes(folder: Traversable, path: str) -> Iterator[web.RouteDef]:
    for file in folder.iterdir():
        if file.is_dir():
            yield from _routes(file, f"{path}/{file.name}")
            continue
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            address = "/" if file.name == _INDEX else f"{path}/{file.name}"
            yield web.get(address, _handler(file.read_bytes(), _TYPES[suffix]))


def _handler(body: bytes, content_type: str) -> Handler:
    async def send(_request: web.Request) -> web.StreamResponse:
        # A new version of the council must be a new page at once; over loopback a cache would save nothing.
        return web.Response(
            body=body, content_type=content_type, charset="utf-8", headers={"Cache-Control": "no-cache"}
        )

    return send
