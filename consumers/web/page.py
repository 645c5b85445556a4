"""The page's files, read once at the start from the package."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web
from aiohttp.typedefs import Handler

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_INDEX = "index.html"


def page_routes() -> list[web.RouteDef]:
    """`/` is the page; its parts are at `/static/NAME`. Nothing but these names is served."""
    routes = []
    for file in (files("consumers.web") / "static").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            path = "/" if file.name == _INDEX else f"/static/{file.name}"
            routes.append(web.get(path, _show(file.read_bytes(), _TYPES[suffix])))
    return routes


def _show(body: bytes, content_type: str) -> Handler:
    async def show(_request: web.Request) -> web.StreamResponse:
        # A new version of the council is a new page at once; over loopback a copy kept would save nothing.
        return web.Response(
            body=body, content_type=content_type, charset="utf-8", headers={"Cache-Control": "no-cache"}
        )

    return show
