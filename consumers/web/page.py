"""The page's files, read once at the start from the package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from aiohttp import web
from aiohttp.typedefs import Handler

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_INDEX = "index.html"


def page_routes() -> list[web.RouteDef]:
    """`/` is the page; its parts are at `/static/ROOM/NAME`. Nothing but these names is served."""
    return list(_routes(files("consumers.web") / "static", "/static"))


def _routes(folder: Traversable, path: str) -> Iterator[web.RouteDef]:
    for file in folder.iterdir():
        if file.is_dir():
            yield from _routes(file, f"{path}/{file.name}")
            continue
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            shown_at = "/" if file.name == _INDEX else f"{path}/{file.name}"
            yield web.get(shown_at, _show(file.read_bytes(), _TYPES[suffix]))


def _show(body: bytes, content_type: str) -> Handler:
    async def show(_request: web.Request) -> web.StreamResponse:
        # A new version of the council is a new page at once; over loopback a copy kept would save nothing.
        return web.Response(
            body=body, content_type=content_type, charset="utf-8", headers={"Cache-Control": "no-cache"}
        )

    return show
