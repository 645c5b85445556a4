"""What an OpenAI-compatible server offers: its list of models, as offers.

GET /v1/models --> llama-server: GET /props      all others but vLLM and Ollama: is it LM Studio?
                                                 (a remote server is asked for its list alone)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from http import HTTPStatus

import httpx
import msgspec

from producers.backend import BackendFailed
from producers.openai.asking import RefusedAnswer, refusal_fault
from producers.openai.councils import IS_COUNCIL, IS_ITSELF, CouncilFault, is_from_council, lists_process
from producers.openai.view import DescribedModel, View, view_of
from producers.servers.address import api_roots, at_path, is_this_machine, server_address
from producers.servers.api_key import without_key
from producers.servers.client import http_client, network_fault, short_body
from producers.servers.faults import ServerFault, error_message
from producers.source import ModelSource, Offer
from schemas.errors import Refused

# A list comes at once from this machine, and within a second from anywhere.
LOOK_S = 3.0
# Each question that only some servers answer. A busy llama-server may leave it unanswered.
ASIDE_S = 1.0
# The longest known list, of a service that resells four hundred models, has 600 KiB.
MAX_LIST_BYTES = 4 << 20
_CONNECTIONS = 2
AUTO_EVICT = (
    "LM Studio unloads one model to load another: load the models in LM Studio before, or turn its Auto-Evict off"
)


async def look_at(client: httpx.AsyncClient, base: httpx.URL, roots: Sequence[httpx.URL], source: ModelSource) -> View:
    """Asks the server at `base` what it is; its API begins at one of `roots`. A server that sends no list within LOOK_S
    has none. Raises ServerFault where it is away, or requires a key; CouncilFault where it is a council and the source
    does not allow that."""
    try:
        async with asyncio.timeout(LOOK_S):
            view, models = await _list(client, roots, source)
    except TimeoutError:
        return View(no_list=f"did not list its models within {LOOK_S:g} s")
    except httpx.HTTPError as error:
        raise ServerFault(network_fault(error)) from error
    if view.kind == "llama-server" and view.models is not None:
        status, props = await _get_aside(client, base, "/props")
        found = view_of(models, props, is_loading=status == HTTPStatus.SERVICE_UNAVAILABLE)
        return msgspec.structs.replace(found, root=view.root)
    if (
        view.kind != "other"
        or source.remote
        or view.root not in ("", str(at_path(base, "")), str(at_path(base, "/v1")))
    ):
        return view
    _, keys = await _get_aside(client, base, "/api/v1/models")
    found = view_of(models, keys=keys)
    if found.kind != "lm-studio":
        _, cards = await _get_aside(client, base, "/api/v0/models")
        found = view_of(models, cards=cards)
    return msgspec.structs.replace(found, root=view.root, no_list=view.no_list if found.models is None else "")


async def _list(client: httpx.AsyncClient, roots: Sequence[httpx.URL], source: ModelSource) -> tuple[View, bytes]:
    """(the view with the root at which there is a list, that list); without a list, with the first root's answer in its
    place. Raises ServerFault where a key is required."""
    no_list = ""
    for root in roots:
        url = at_path(root, "/models")
        status, models, is_council = await _get(client, url)
        view = view_of(models if status == HTTPStatus.OK else b"")
        is_council = is_council or view.kind == "council"
        if is_council and not source.allow_council:
            raise CouncilFault(IS_COUNCIL)
        refused = RefusedAnswer(status, "", {}, models, str(url))
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise refusal_fault(refused, source.key_env)
        if status == HTTPStatus.SERVICE_UNAVAILABLE and "loading" in error_message(models).lower():
            return View("llama-server", residency="loading"), b""
        if view.models is not None:
            return msgspec.structs.replace(view, root=str(root), kind="council" if is_council else view.kind), models
        has_none = status == HTTPStatus.OK or 400 <= status < 500
        words = f"HTTP {status} at {url}{f': {words}' if (words := error_message(models)) else ''}"
        no_list = no_list or (f"has no list of models ({words})" if has_none else f"answered {words}")
    return View(no_list=no_list), b""


async def _get_aside(client: httpx.AsyncClient, base: httpx.URL, path: str) -> tuple[int, bytes]:
    """What only some servers answer; empty where this one does not, or not soon."""
    status, body = 0, b""
    with contextlib.suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(ASIDE_S):
            status, body, _ = await _get(client, at_path(base, path))
    return status, body if status == HTTPStatus.OK else b""


async def _get(client: httpx.AsyncClient, url: httpx.URL) -> tuple[int, bytes, bool]:
    """(status, body, whether a council answers)."""
    async with client.stream("GET", url) as response:
        return response.status_code, await short_body(response, MAX_LIST_BYTES), is_from_council(response.headers)


async def require_other(client: httpx.AsyncClient, base: httpx.URL, source: ModelSource, process: str) -> None:
    """Returns where the source allows the council at `base`, and the producer process of this name is not one of its
    processes. Raises CouncilFault where it is, or where nothing shows that; httpx.HTTPError."""
    if not source.allow_council:
        raise CouncilFault(IS_COUNCIL)
    try:
        async with asyncio.timeout(LOOK_S):
            _, body, _ = await _get(client, at_path(base, "/api/status"))
    except TimeoutError:
        raise CouncilFault(f"did not show within {LOOK_S:g} s whether it is this council itself") from None
    if lists_process(body, process):
        raise CouncilFault(IS_ITSELF)


class CouncilRefused(BackendFailed):
    """The server is a council, or the models that were named are those of one, and the source does not allow that."""


async def openai_offers(server: str, source: ModelSource, models: Sequence[str] = ()) -> tuple[Offer, ...]:
    """What the server that the settings call `server` offers; of it only `models`, where any are named. `source` is how
    to reach it, without a name. A model that is named and not listed has its trouble in its facts. Models of a council
    among others are left out.

    Raises BackendFailed where the server is away, rejects us, or has no key; CouncilRefused where it is a council.
    """
    try:
        base, auth = server_address(server, source)
        roots = api_roots(server, source)
    except Refused as refusal:
        raise BackendFailed(str(refusal).removesuffix(".")) from refusal
    shown = str(base).rstrip("/")
    async with http_client(base, _CONNECTIONS, auth) as client:
        try:
            view = await look_at(client, base, roots, source)
        except CouncilFault as fault:
            raise CouncilRefused(f"{shown} {fault}") from fault
        except ServerFault as fault:
            raise BackendFailed(without_key(f"{shown} {fault}", auth)) from fault
    if not models and view.models is None:
        advice = f"name those to use under models in [servers.{server}]"
        raise BackendFailed(without_key(f"{shown} {view.no_list or 'has no list of models'}: {advice}", auth))
    names = models or [model.name for model in view.models or ()]
    if not source.allow_council:
        councils = [name for name in names if view.is_council(name)]
        if councils and (models or len(councils) == len(names)):
            raise CouncilRefused(f"{', '.join(councils)} at {shown} {IS_COUNCIL}")
        names = [name for name in names if name not in councils]
    return tuple(_offer(view, msgspec.structs.replace(source, name=name), shown) for name in names)


def _offer(view: View, source: ModelSource, server: str) -> Offer:
    model = view.model_called(source.name) or DescribedModel(source.name)
    lacks = view.lacks(source.name)
    details = [*model.details, *([view.no_list] if "within" in view.no_list else [])]
    if view.kind == "lm-studio":
        details += ["no logprobs", *([] if model.residency == "loaded" else [AUTO_EVICT])]
    if source.key_env and source.url.lower().startswith("http:") and not is_this_machine(source.url):
        details.append(f"the key in {source.key_env} is sent unencrypted")
    facts = msgspec.structs.replace(
        view.facts_of(source, server),
        residency=model.residency if view.models is not None else view.residency,
        trouble=f"{server} {lacks}" if lacks else "",
    )
    return Offer(facts, source, model.capabilities, "; ".join(details))
