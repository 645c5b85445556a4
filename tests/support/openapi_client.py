"""A client of the HTTP API that checks every answer against /api/openapi.json."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import jsonschema_rs
import msgspec


class DescribedApi:
    """Sends requests. `seen`: the (method, described path, status) of every answer so far."""

    def __init__(self, client: aiohttp.ClientSession, http: str, document: dict[str, Any]) -> None:
        self._client, self._http, self.document = client, http, document
        self.seen: set[tuple[str, str, int]] = set()

    @classmethod
    async def read(cls, client: aiohttp.ClientSession, http: str) -> DescribedApi:
        async with client.get(f"{http}/api/openapi.json") as answer:
            assert answer.status == 200
            return cls(client, http, await answer.json())

    async def ask(self, method: str, path: str, status: int, **options: Any) -> Any:
        """The answer's body, None where it has none. Fails unless it has this status and a body that is described."""
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

    def accepts(self, method: str, shown: str, body: Any) -> bool:
        """True if the description of this operation accepts the body."""
        described = self.document["paths"][shown][method.lower()]["requestBody"]["content"]["application/json"]
        return bool(self._validator(described["schema"]).is_valid(body))

    def _path(self, path: str, method: str) -> str:
        """The path of the description that this one matches."""
        found = [
            shown
            for shown, operations in self.document["paths"].items()
            if method.lower() in operations and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", shown), path)
        ]
        # The path with the fewest parameters is the closest.
        return min(found, key=lambda shown: shown.count("{"))

    def _validator(self, schema: dict[str, Any]) -> Any:
        return jsonschema_rs.Draft202012Validator({**schema, "components": self.document["components"]})
