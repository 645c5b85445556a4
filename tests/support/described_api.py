"""The HTTP API as a stranger knows it: every answer is checked against /api/openapi.json."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import jsonschema_rs
import msgspec


class DescribedApi:
    """Asks, and checks that what comes is described. `seen` are the (method, path, status) that came."""

    def __init__(self, client: aiohttp.ClientSession, http: str, document: dict[str, Any]) -> None:
        self._client, self._http, self.document = client, http, document
        self.seen: set[tuple[str, str, int]] = set()

    @classmethod
    async def read(cls, client: aiohttp.ClientSession, http: str) -> DescribedApi:
        async with client.get(f"{http}/api/openapi.json") as answer:
            assert answer.status == 200
            return cls(client, http, await answer.json())

    async def ask(self, method: str, path: str, status: int, **options: Any) -> Any:
        """The answer's body; None where there is none. Fails where its status or its body is another."""
        shown = self._path(path.partition("?")[0], method)
        described = self.document["paths"][shown][method.lower()]["responses"][str(status)]
        async with self._client.request(method, self._http + path, **options) as answer:
            raw = await answer.read()
            assert answer.status == status, raw
            content_type = answer.content_type if raw else None
        self.seen.add((method, shown, status))
        if "content" not in described:
            assert raw == b""
            return None
        assert content_type == "application/json"
        body = msgspec.json.decode(raw)
        self._validator(described["content"]["application/json"]["schema"]).validate(body)
        return body

    def _path(self, path: str, method: str) -> str:
        """The described path that this one is meant by."""
        found = [
            shown
            for shown, operations in self.document["paths"].items()
            if method.lower() in operations and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", shown), path)
        ]
        # What has no parameter is nearer.
        return min(found, key=lambda shown: shown.count("{"))

    def _validator(self, schema: dict[str, Any]) -> Any:
        return jsonschema_rs.Draft202012Validator({**schema, "components": self.document["components"]})
