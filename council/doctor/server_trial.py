"""`council check`: one real request of two tokens to a model server, as a producer sends it.

    NAME or URL --> Server --> its first model --> start, generate: two tokens --> what came back
                                                     `--> generate: an answer that is already begun

The second request is sent where the first one was answered: it shows whether the server continues a text.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncGenerator, Callable

import msgspec
import pydantic

from council.settings.own_address import own_address, own_address_trouble
from council.settings.schema import Server, Settings
from producers.backend import STOP, BackendFailed, Chunk, Ending, ModelLoading, ModelWaiting, Piece, Request
from producers.ollama.backend import OllamaBackend
from producers.ollama.offers import ollama_offers, ollama_url
from producers.openai.backend import OpenAIBackend
from producers.openai.offers import openai_offers
from producers.servers.address import server_address
from producers.servers.api_key import without_key
from producers.servers.faults import one_line
from producers.servers.prefix_try import Outcome
from producers.servers.recorded import Exchange
from producers.source import Api
from schemas.errors import Refused
from schemas.rules.limits import limits_with
from schemas.sessions import Limits, Sampling

Answer = AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]
MAX_SHOWN_CHARS = 2_000
_TOKENS = 2
_PROMPT = "Count from one to ten in words, without anything else."
_BYTES = re.compile(rb'"bytes": *\[ *\d')
# The defaults of a session, with a seed; a server may refuse each of them.
_REQUEST = Request(
    _PROMPT, "", _TOKENS, Sampling().temperature, 1, Sampling().top_k, Limits().silence_ms, is_check=True
)


class ShownExchange(msgspec.Struct, frozen=True):
    """One request and its answer, each on one line, without headers. `status` 0: no answer came."""

    request: str
    sent: str
    status: int
    received: str


class Capabilities(msgspec.Struct, frozen=True):
    """What the server did. `top_logprobs` is the most alternatives of a token; `bytes`: tokens have their bytes."""

    logprobs: bool
    top_logprobs: int
    bytes: bool
    thinking: bool
    seed: bool
    prefix: Outcome


class ServerTrial(msgspec.Struct, frozen=True):
    """The outcome. `failure` is a sentence where the server gave no answer; `left_out` is what it refused and the
    request was sent without."""

    server: str
    address: str
    api: Api
    model: str
    exchanges: list[ShownExchange]
    answer: str = ""
    thinking: str = ""
    ending: str = ""
    capabilities: Capabilities | None = None
    left_out: tuple[str, ...] = ()
    failure: str = ""


def server_named(named: str, settings: Settings, api: str | None, key_env: str | None) -> tuple[str, Server]:
    """(the name, the server) of this name in the settings, or at this URL. Raises Refused."""
    if named in settings.servers:
        return named, settings.servers[named]
    if named == "ollama":
        named, api = ollama_url(os.environ), "ollama"
    if "://" not in named:
        known = ", ".join(settings.servers) or "none"
        raise Refused(
            "unknown_server",
            f"{named!r} is not a server of the settings (servers: {known}): name one, or give a URL such as "
            "http://127.0.0.1:8080.",
        )
    guessed = "ollama" if re.search(r":11434/?$|/api(/[a-z]+)?/?$", named) else "openai"
    try:
        return "server", Server.model_validate({"url": named, "api": api or guessed, "key_env": key_env})
    except pydantic.ValidationError as error:
        # Without the value, which may contain a password.
        problem = error.errors(include_input=False)[0]["msg"].removeprefix("Value error, ")
        raise Refused("bad_server", f"The server's URL cannot be used: {problem}.") from None


async def try_server(name: str, server: Server, settings: Settings, model: str | None = None) -> ServerTrial:
    """Sends the request. Raises Refused where the server is remote and that is not allowed, or has no key."""
    if server.is_remote and not settings.allow_remote:
        raise Refused(
            "remote_not_allowed",
            f"{server.address} is remote: allow it with --allow-remote, or set remote = false in [servers.{name}] if "
            "it is in your own network.",
        )
    _, auth = server_address(name, server.source(""))
    exchanges: list[Exchange] = []
    trial = ServerTrial(name, server.address, server.api, model or "", [])
    try:
        if loop := await own_address_trouble(server, own_address(settings)):
            raise BackendFailed(loop)
        chosen = model or await _first_model(name, server)
        trial = msgspec.structs.replace(trial, model=chosen)
        trial = await _answered(trial, server, limits_with(settings.limits), exchanges)
    except BackendFailed as failure:
        trial = msgspec.structs.replace(trial, failure=one_line(without_key(str(failure), auth), MAX_SHOWN_CHARS))
    shown = [_shown(exchange, lambda text: without_key(text, auth)) for exchange in exchanges]
    return msgspec.structs.replace(trial, exchanges=shown)


async def _first_model(name: str, server: Server) -> str:
    """The model of the settings, or the first one that the server lists and that writes text; a loaded one first.
    Raises BackendFailed."""
    if server.models:
        return server.models[0]
    if server.api == "ollama":
        offers = await ollama_offers(server.address, server.source(""))
    else:
        offers = await openai_offers(name, server.source(""))
    usable = [offer for offer in offers if offer.writes_text and not offer.facts.trouble]
    if not usable:
        raise BackendFailed(
            f"{server.address} lists no model that writes text: load one there, or name it with --model"
        )
    return min(usable, key=lambda offer: offer.facts.residency != "loaded").source.name


async def _answered(trial: ServerTrial, server: Server, limits: Limits, exchanges: list[Exchange]) -> ServerTrial:
    """The trial with the answer. Raises BackendFailed."""
    kind = OllamaBackend if server.api == "ollama" else OpenAIBackend
    backend = kind(trial.model, server.source(trial.model), exchanges)
    await backend.start()
    try:
        pieces, ending = await _generated(backend.generate(_REQUEST), limits)
        left_out = backend.left_out(_REQUEST)
        has_bytes = any(_BYTES.search(exchange.received) for exchange in exchanges if exchange.sent)
        prefix = await _prefix(backend, limits)
    finally:
        await backend.close()
    measured = [piece for piece in pieces if piece.logprob is not None]
    return msgspec.structs.replace(
        trial,
        answer=_text(pieces, "answer"),
        thinking=_text(pieces, "thinking"),
        ending=ending,
        left_out=left_out,
        capabilities=Capabilities(
            logprobs=bool(measured),
            top_logprobs=max((len(piece.top) for piece in pieces), default=0),
            bytes=has_bytes,
            thinking=any(piece.lane == "thinking" for piece in pieces),
            seed="seed" not in left_out,
            prefix=prefix,
        ),
    )


async def _generated(answer: Answer, limits: Limits) -> tuple[list[Piece], str]:
    """(the tokens, why the answer ended). Raises BackendFailed."""
    pieces: list[Piece] = []
    ending = STOP
    clock, name = asyncio.get_running_loop().time, "first_token_ms"
    try:
        async with asyncio.timeout(limits.first_token_ms / 1_000) as within:
            async with contextlib.aclosing(answer) as items:
                async for item in items:
                    if isinstance(item, Ending):
                        ending = item.reason
                    elif isinstance(item, ModelLoading | ModelWaiting):
                        name = "loading_ms" if isinstance(item, ModelLoading) else "waiting_ms"
                        within.reschedule(clock() + getattr(limits, name) / 1_000)
                    else:
                        pieces += item.pieces
    except TimeoutError:
        limit_s = getattr(limits, name) / 1_000
        raise BackendFailed(f"the answer was not complete within {limit_s:g} s (limits.{name})") from None
    return pieces, ending


async def _prefix(backend: OllamaBackend | OpenAIBackend, limits: Limits) -> Outcome:
    """Whether the server continues an answer that the request begins."""
    with contextlib.suppress(BackendFailed):
        await _generated(backend.try_prefix(_REQUEST), limits)
    return backend.prefix_try.outcome


def _text(pieces: list[Piece], lane: str) -> str:
    return one_line("".join(piece.text for piece in pieces if piece.lane == lane), MAX_SHOWN_CHARS)


def _shown(exchange: Exchange, cut: Callable[[str], str]) -> ShownExchange:
    """The exchange for a terminal; `cut` takes the API key out, which a server may quote."""
    sent, received = (
        cut(one_line(body.decode("utf-8", "replace"), MAX_SHOWN_CHARS)) for body in (exchange.sent, exchange.received)
    )
    return ShownExchange(f"{exchange.method} {exchange.url}", sent, exchange.status, received)
