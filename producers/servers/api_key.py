"""An API key: read from the environment, sent as a bearer token, never shown."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Mapping

import httpx

from schemas.errors import Refused

# So many characters of a key in a row must not be shown; a key shorter than the second number could be any word.
_SHOWN_CHARS = 8
_LEAST_CHARS = 4


class ApiKey(httpx.Auth):
    """The key in an environment variable. Its value is in the requests, and never in a repr, a log or a message."""

    def __init__(self, variable: str, environment: Mapping[str, str] = os.environ) -> None:
        """Raises Refused, with the variable's name alone, where the key is missing or cannot be sent."""
        key = environment.get(variable, "").strip()
        if not key:
            raise Refused(
                "no_api_key", f"The environment variable {variable} is empty: put the server's API key into it."
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise Refused(
                "bad_api_key",
                f"The API key in the environment variable {variable} has characters that cannot be sent: "
                "put the key alone into it, without quotes, blanks or a name in front.",
            )
        self.variable = variable
        self._key = key

    def __repr__(self) -> str:
        return f"ApiKey({self.variable!r})"

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sends the key."""
        request.headers["Authorization"] = f"Bearer {self._key}"
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Sends the key."""
        request.headers["Authorization"] = f"Bearer {self._key}"
        yield request

    def cut_from(self, text: str) -> str:
        """`text` with … in place of the key, and of any longer part of it.

        Servers quote a key that they reject, and the quotation may be cut anywhere, also at the end of the text.
        """
        key, size = self._key, min(_SHOWN_CHARS, len(self._key))
        if size < _LEAST_CHARS:
            return text
        is_key = bytearray(len(text))
        for at in range(len(text)):
            part = text[at : at + size]
            whole = len(part) == size and part in key
            tail = text[at:].removesuffix("…")
            if whole or (_LEAST_CHARS <= len(tail) < size and key.startswith(tail)):
                end = at + (size if whole else len(tail))
                is_key[at:end] = b"\1" * (end - at)
        shown = []
        for at, character in enumerate(text):
            if not is_key[at]:
                shown.append(character)
            elif not at or not is_key[at - 1]:
                shown.append("…")
        return "".join(shown)


def without_key(sentence: str, auth: httpx.Auth | None) -> str:
    """The sentence without the API key, in case the server quoted it."""
    return auth.cut_from(sentence) if isinstance(auth, ApiKey) else sentence
