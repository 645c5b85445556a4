"""How an OpenAI-compatible server is asked, and what follows when it refuses. No clock, no I/O.

    Dialect --body--> POST --> accepted
       ^                  `--> Refusal --> Asking --> again at once, in another dialect      400, 403, 422
       |                                    |    `--> Loading or Waiting, and again later    503, 429
       +------------------------------------+    `--> ServerFault: what to do, in words      anything else

What servers differ in: some have no logprobs on this path or fewer alternatives a token, some call max_tokens by its
newer name, some do not know that a stream can tell its usage. Nobody says so before he is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal

import msgspec

from producers.backend import ModelLoading, ModelWaiting, Request
from producers.servers.faults import ServerFault, error_code, error_message, is_html
from producers.servers.pieces import MAX_TOP

LOADING_PAUSE_S = 1.0
# A bound only: the longest a session lives is an hour, and whoever has less patience closes the iterator.
LOADING_ASKS = 3_600
# Limits are by the minute: after two of them a place that has not come will not come.
MOST_WAITING_S = 120.0
# Without a word from the server: at once would be another refusal, half a minute would waste a free place.
WAITING_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
# Fewer alternatives, no logprobs, the newer name, no usage: there is nothing else to change.
MOST_CHANGES = 4

_UNKNOWN_PARAMETER = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY)
_NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?![\w.]*\w)")
_LIMIT = re.compile(r"max|most|between|exceed|greater|less|<=|≤|range", re.IGNORECASE)
_BUSY = re.compile(r"busy|overloaded|capacity|too many", re.IGNORECASE)


class Dialect(msgspec.Struct, frozen=True):
    """What a server takes. `most_top` alternatives a token at most; None: no logprobs at all."""

    most_top: int | None = MAX_TOP
    length: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    tells_usage: bool = True

    def top_k(self, request: Request) -> int:
        """How many alternatives a token are asked for."""
        return min(request.top_k, self.most_top or 0)

    def body(self, model: str, request: Request) -> bytes:
        """The request's JSON, in ASCII: so that not even half a character in a prompt can break it."""
        body: dict[str, object] = {
            "model": model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in request.messages],
            self.length: request.max_tokens,
            "temperature": request.temperature,
            "stream": True,
        }
        if self.most_top is not None:
            body |= {"logprobs": True, "top_logprobs": self.top_k(request)}
        if self.tells_usage:
            body["stream_options"] = {"include_usage": True}
        if request.seed is not None:
            body["seed"] = request.seed
        return json.dumps(body).encode()

    def without(self, refused: str, request: Request) -> Dialect | None:
        """Another way to ask, when these words refused this one; None where they name nothing that can be changed."""
        if self.most_top is not None and "logprobs" in refused:
            return msgspec.structs.replace(self, most_top=_fewer(refused, self.top_k(request)))
        if self.length == "max_tokens" and "max_completion_tokens" in refused:
            return msgspec.structs.replace(self, length="max_completion_tokens")
        if self.tells_usage and ("stream_options" in refused or "include_usage" in refused):
            return msgspec.structs.replace(self, tells_usage=False)
        return None


def _fewer(refused: str, asked: int) -> int | None:
    """The largest number below `asked` in a sentence about a limit: "logprobs of 20, greater than max allowed: 5"."""
    if not _LIMIT.search(refused):
        return None
    return max((number for number in map(int, _NUMBER.findall(refused)) if 0 < number < asked), default=None)


class RefusedAnswer(msgspec.Struct, frozen=True):
    """An answer that is no stream. `headers` by lower-case name."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """The server's own words, on one line."""
        return error_message(self.body)

    @property
    def retry_after_s(self) -> float | None:
        """When the server wants to be asked again; a date counts from the date of its own answer."""
        told = self.headers.get("retry-after", "").strip()
        try:
            return max(0.0, float(told)) if re.fullmatch(r"\d{1,9}(\.\d*)?", told) else self._until(told)
        except (KeyError, ValueError, TypeError, OverflowError):
            return None

    def _until(self, date: str) -> float:
        return max(0.0, (parsedate_to_datetime(date) - parsedate_to_datetime(self.headers["date"])).total_seconds())


class Asking:
    """One request on its way to being accepted. `dialect` is the one to ask in now, `pause_s` how long to wait first.

    `key_variable` is where the API key comes from, where there is one; `absence` what the server's own list says of a
    model that is not in it.
    """

    def __init__(self, dialect: Dialect, request: Request, key_variable: str = "", absence: str = "") -> None:
        self.dialect, self.request, self.pause_s = dialect, request, 0.0
        self._key_variable, self._absence = key_variable, absence
        self._changes = self._loading_asks = self._waiting_asks = 0
        self._waited_s = 0.0

    @property
    def has_waited(self) -> bool:
        """True where the server had no room at first."""
        return self._waiting_asks > 0

    def refused(self, refusal: RefusedAnswer) -> ModelLoading | ModelWaiting | None:
        """What to say while it waits `pause_s`; None: ask again at once. Raises ServerFault where asking again is of no
        use."""
        self.pause_s = 0.0
        if refusal.status in _UNKNOWN_PARAMETER and self._changes < MOST_CHANGES:
            words = refusal.body.decode("utf-8", "replace")
            if changed := self.dialect.without(words, self.request):
                self.dialect, self._changes = changed, self._changes + 1
                return None
        if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE and "loading" in refusal.message.lower():
            return self._load()
        if _is_full(refusal):
            return self._wait(refusal)
        raise refusal_fault(refusal, self._key_variable, self._absence)

    def _load(self) -> ModelLoading:
        self._loading_asks += 1
        if self._loading_asks >= LOADING_ASKS:
            raise ServerFault("did not finish loading the model")
        self.pause_s = LOADING_PAUSE_S
        return ModelLoading()

    def _wait(self, refusal: RefusedAnswer) -> ModelWaiting:
        told_s = refusal.retry_after_s
        pause_s = WAITING_PAUSES_S[min(self._waiting_asks, len(WAITING_PAUSES_S) - 1)]
        # A server that says "at once" each time is not believed for ever.
        pause_s = pause_s if told_s is None else max(told_s, pause_s if self._waiting_asks > 3 else 0.0)
        if self._waited_s + pause_s > MOST_WAITING_S:
            when = f"not within {self._waited_s:g} s" if self._waited_s else f"it says to come again in {pause_s:g} s"
            raise ServerFault(f"has no room for the request, {when} (HTTP {refusal.status}{_quoted(refusal)})")
        self._waiting_asks += 1
        self._waited_s += pause_s
        self.pause_s = pause_s
        return ModelWaiting()


def _is_full(refusal: RefusedAnswer) -> bool:
    """True where asking again later helps. What is used up until somebody pays is not."""
    if refusal.status == HTTPStatus.TOO_MANY_REQUESTS:
        return error_code(refusal.body) != "insufficient_quota"
    if refusal.status != HTTPStatus.SERVICE_UNAVAILABLE:
        return False
    return refusal.retry_after_s is not None or bool(_BUSY.search(refusal.message))


def refusal_fault(refusal: RefusedAnswer, key_variable: str, absence: str = "") -> ServerFault:
    """What a refusal means, and what to do, as a predicate. The arguments are those of Asking."""
    status, quoted = refusal.status, _quoted(refusal)
    if status == HTTPStatus.UNAUTHORIZED and key_variable:
        return ServerFault(f"refuses the API key (HTTP 401{quoted}): correct it in the variable {key_variable}")
    if status == HTTPStatus.UNAUTHORIZED:
        return ServerFault(f"wants an API key (HTTP 401{quoted}): name its environment variable with key_env")
    if status == HTTPStatus.FORBIDDEN and key_variable:
        return ServerFault(f"forbids this (HTTP 403{quoted}): may the key in {key_variable} use this model?")
    if is_html(refusal.body):
        return ServerFault(f"answered HTTP {status} with HTML, not with a stream: is the URL right?")
    if status == HTTPStatus.NOT_FOUND and absence:
        return ServerFault(f"answered HTTP 404{quoted}; it {absence}")
    if status == HTTPStatus.NOT_FOUND:
        return ServerFault(f"answered HTTP 404{quoted}: are the URL and the model's name right?")
    if 300 <= status < 400:
        return ServerFault(f"answered HTTP {status} and points to another address: name that one as the URL")
    return ServerFault(f"answered HTTP {status}{quoted or f': {refusal.reason}'}".removesuffix(": "))


def _quoted(refusal: RefusedAnswer) -> str:
    return f": {refusal.message}" if refusal.message else ""
