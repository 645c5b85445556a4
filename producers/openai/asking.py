"""What an OpenAI-compatible server is asked, and what follows when it refuses. Pure: no clock, no I/O.

    Dialect --body--> POST --> accepted
       ^                  `--> RefusedAnswer --> Asking --> again at once, in another dialect    400, 403, 422, 500
       |                                          |    `--> Loading or Waiting, again later      503, 429
       +------------------------------------------+    `--> ServerFault: what to do              all others

A server shows what it does not accept only by refusing it. What it accepted is remembered for later requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import msgspec

from producers.backend import ModelLoading, ModelWaiting, Request
from producers.openai.dialect import Dialect
from producers.servers.faults import ServerFault, error_code, error_message, error_words, is_html, refuses_messages

LOADING_PAUSE_S = 1.0
# Only a bound: a session lives for an hour at most, and closes the iterator when it does not wait any longer.
LOADING_ASKS = 3_600
# Servers limit requests by the minute: a slot that is not free after two of them will not become free.
MOST_WAITING_S = 120.0
# Without Retry-After: at once would be refused again, half a minute would leave a free slot unused.
WAITING_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
# Three requests in all. The last one leaves out whatever the user has not asked for.
MOST_CHANGES = 2
# llama-server, llama-cpp-python and TGI refuse a parameter with 500, 424 or 501.
_MAY_NAME_PARAMETER = frozenset((400, 403, 406, 415, 422, 424, 500, 501))
_WRONG_ADDRESS = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE)
_BUSY = re.compile(r"busy|overloaded|capacity|too many", re.IGNORECASE)


class RefusedAnswer(msgspec.Struct, frozen=True):
    """An answer that is not a stream, from the address `url`. `headers` have lower-case names."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    url: str = ""

    @property
    def message(self) -> str:
        """The server's own words, on one line."""
        return error_message(self.body)

    @property
    def retry_after_s(self) -> float | None:
        """When the server wants the next request; a date counts from the date of the server's own answer."""
        value = self.headers.get("retry-after", "").strip()
        try:
            return max(0.0, float(value)) if re.fullmatch(r"\d{1,9}(\.\d*)?", value) else self._until(value)
        except (KeyError, ValueError, TypeError, OverflowError):
            return None

    def _until(self, date: str) -> float:
        return max(0.0, (parsedate_to_datetime(date) - parsedate_to_datetime(self.headers["date"])).total_seconds())


class Asking:
    """One request until it is accepted. `dialect` is the one to use now, `pause_s` the time to wait before.

    `key_variable` is the environment variable of the API key, if there is one; `absence` is what the server's list
    shows about a model that is not in it.
    """

    def __init__(self, dialect: Dialect, request: Request, key_variable: str = "", absence: str = "") -> None:
        self.dialect, self.request, self.pause_s = dialect, request, 0.0
        self._key_variable, self._absence = key_variable, absence
        self._changes = self._loading_asks = self._waiting_asks = 0
        self._waited_s = 0.0

    @property
    def has_waited(self) -> bool:
        """True where the server was busy at first."""
        return self._waiting_asks > 0

    def refused(self, refusal: RefusedAnswer) -> ModelLoading | ModelWaiting | None:
        """The sign to show during `pause_s`; None: ask again at once. Raises ServerFault where a new attempt would not
        help."""
        self.pause_s = 0.0
        if refusal.status in _MAY_NAME_PARAMETER and self.changes(refusal.body.decode("utf-8", "replace")):
            return None
        if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE and "loading" in refusal.message.lower():
            return self._load()
        if _is_busy(refusal):
            return self._wait(refusal)
        fault = refusal_fault(refusal, self._key_variable, self._absence)
        words = error_words(refusal.body)
        raise ServerFault(str(fault), words=words, is_refusal=refuses_messages(refusal.status, words))

    def changes(self, refusal: str) -> bool:
        """True where another attempt, in another dialect, may succeed after this refusal."""
        changed = self.dialect.without(refusal, self.request) if self._changes < MOST_CHANGES else None
        if changed is None:
            return False
        self._changes += 1
        self.dialect = changed.least() if self._changes == MOST_CHANGES else changed
        return True

    def _load(self) -> ModelLoading:
        self._loading_asks += 1
        if self._loading_asks >= LOADING_ASKS:
            raise ServerFault("did not finish loading the model")
        self.pause_s = LOADING_PAUSE_S
        return ModelLoading()

    def _wait(self, refusal: RefusedAnswer) -> ModelWaiting:
        retry_after_s = refusal.retry_after_s
        pause_s = WAITING_PAUSES_S[min(self._waiting_asks, len(WAITING_PAUSES_S) - 1)]
        # A server that asks for a retry at once, each time, is not followed for ever.
        if retry_after_s is not None:
            pause_s = max(retry_after_s, pause_s if self._waiting_asks > 3 else 0.0)
        if self._waited_s + pause_s > MOST_WAITING_S:
            when = f"not within {self._waited_s:g} s" if self._waited_s else f"it asks for a retry in {pause_s:g} s"
            raise ServerFault(f"is too busy for the request, {when} (HTTP {refusal.status}{_quoted(refusal)})")
        self._waiting_asks += 1
        self._waited_s += pause_s
        self.pause_s = pause_s
        return ModelWaiting()


def _is_busy(refusal: RefusedAnswer) -> bool:
    """True where a later attempt may succeed. A quota that has to be paid for does not come back."""
    if refusal.status == HTTPStatus.TOO_MANY_REQUESTS:
        return error_code(refusal.body) != "insufficient_quota"
    if refusal.status != HTTPStatus.SERVICE_UNAVAILABLE:
        return False
    return refusal.retry_after_s is not None or bool(_BUSY.search(refusal.message))


def refusal_fault(refusal: RefusedAnswer, key_variable: str, absence: str = "") -> ServerFault:
    """What a refusal means, and what to do, as a predicate. The arguments are those of Asking."""
    status, quoted = refusal.status, _quoted(refusal)
    if status == HTTPStatus.UNAUTHORIZED and key_variable:
        return ServerFault(f"rejects the API key (HTTP 401{quoted}): correct it in the variable {key_variable}")
    if status == HTTPStatus.UNAUTHORIZED:
        return ServerFault(f"requires an API key (HTTP 401{quoted}): name its environment variable with key_env")
    if status == HTTPStatus.FORBIDDEN and key_variable:
        return ServerFault(f"forbids the request (HTTP 403{quoted}): check what the key in {key_variable} may use")
    # A person has to compare the address that was asked with the server's.
    where = f"HTTP {status} at {refusal.url}" if refusal.url and status in _WRONG_ADDRESS else f"HTTP {status}"
    if is_html(refusal.body):
        return ServerFault(f"answered {where} with HTML instead of a stream: check the URL")
    if status == HTTPStatus.NOT_FOUND and absence:
        return ServerFault(f"answered {where}{quoted}; it {absence}")
    if status in _WRONG_ADDRESS:
        return ServerFault(f"answered {where}{quoted}: check the URL and the model's name")
    if 300 <= status < 400:
        return ServerFault(f"answered {where} with another address: give that address as the URL")
    return ServerFault(f"answered HTTP {status}{quoted or f': {refusal.reason}'}".removesuffix(": "))


def _quoted(refusal: RefusedAnswer) -> str:
    words = refusal.message.rstrip(".") if refusal.status in _WRONG_ADDRESS else refusal.message
    return f": {words}" if words else ""
