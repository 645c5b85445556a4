"""The OpenAPI document: names for people, schemas that generators of clients read, requests as it describes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.openapi_client import DescribedApi
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import ScriptedProducer, offer_aggregator
from tests.support.web_server import WebServer


@pytest.fixture
async def api(web: WebServer, client: aiohttp.ClientSession) -> DescribedApi:
    return await DescribedApi.read(client, web.http)


def parts_of(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside a part of the document."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts_of(part)


async def test_every_operation_has_a_name_a_tag_and_a_description(api: DescribedApi) -> None:
    operations = [one for path in api.document["paths"].values() for one in path.values()]
    names = [one["operationId"] for one in operations]
    assert len(set(names)) == len(names) > 25
    # A verb and its object, as a person calls it.
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)] == []
    assert {"open_session", "list_sessions", "cancel_member", "add_recording", "load_model"} <= set(names)
    tags = {tag["name"] for tag in api.document["tags"]}
    assert {tag for one in operations for tag in one["tags"]} == tags
    assert all(tag["description"] for tag in api.document["tags"])
    for one in operations:
        assert not one["summary"].endswith("."), one
        assert one["description"].endswith("."), one


async def test_the_schemas_are_such_as_generators_of_clients_read(api: DescribedApi) -> None:
    """Each of these was a client that was not generated, or did not compile."""
    schemas = api.document["components"]["schemas"]
    for name, schema in schemas.items():
        # openapi-typescript requires a property that has a default.
        assert [part for part in parts_of(schema) if "default" in part] == [], name
        # openapi-python-client does not read `items: false`.
        assert [part for part in parts_of(schema) if part.get("items") is False] == [], name
        # openapi-generator imports a class Null that does not exist.
        assert [part for part in schema.get("properties", {}).values() if part.get("type") == "null"] == [], name
        # openapi-python-client has a variable for the object, and one for each of its properties.
        assert name.lower() not in schema.get("properties", {}), name


# Each was found by schemathesis: (path, body, whether the document accepts it, status).
BODIES: list[tuple[str, Any, bool, int]] = [
    ("", {"prompt": None}, False, 400),
    ("", {"prompt": None, "messages": None}, False, 400),
    ("", {}, False, 400),
    ("", {"prompt": " \n"}, False, 400),
    ("", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, False, 400),
    ("", {"prompt": "a", "models": [""]}, False, 400),
    ("", {"prompt": "a", "models": [{"model": " "}]}, False, 400),
    ("", {"prompt": "a", "models": [{"model": "here", "name": "seed"}]}, False, 400),
    ("", {"prompt": "a", "max_tokens": 0}, False, 400),
    ("", {"prompt": "a", "max_tokens": 8193}, False, 400),
    ("", {"prompt": "a", "seed": 2**32}, False, 400),
    ("", {"prompt": "a", "seed": True}, False, 400),
    ("", {"prompt": "a", "temperature": 2.5}, False, 400),
    ("", {"prompt": "a", "weights": {"here": -1}}, False, 400),
    ("", {"prompt": "a", "options": {"here": {"top_p": 1}}}, False, 400),
    ("", {"prompt": "a", "options": {"here": {"seed": 1.5}}}, False, 400),
    ("", {"prompt": "a", "tier": "top"}, False, 400),
    ("", {"messages": []}, False, 400),
    ("", {"messages": [{"role": "robot", "content": "b"}]}, False, 400),
    ("", {"prompt": "a", "models": ["nowhere"]}, True, 404),
    ("", {"prompt": "a", "models": ["here", "here"]}, True, 409),
    ("", {"prompt": "a", "weights": {"nowhere": 1}}, True, 404),
    ("", {"prompt": "a", "weights": {"here": 0}}, True, 409),
    ("", {"prompt": "a", "options": {"nowhere": {}}}, True, 404),
    ("", {"messages": [{"role": "user", "content": " "}]}, True, 409),
    ("", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, True, 409),
    ("", {"messages": [{"role": "system", "content": "a"}], "system": "b"}, True, 409),
    ("", {"prompt": "a", "max_tokens": 3.0, "seed": 7.0, "models": [{"model": "here", "seed": 1.0}]}, True, 201),
    ("/what-if", {"say": "x"}, False, 400),
    ("/what-if", {"say": "x", "at": 0, "word": 1}, False, 400),
    ("/what-if", {"say": "", "at": 0}, False, 400),
    ("/what-if", {"say": "x", "at": -1}, False, 404),
    ("/what-if", {"say": "x", "word": 0}, False, 404),
    ("/what-if", {"say": "x", "at": 0, "member": ""}, False, 404),
    ("/what-if", {"say": "x", "at": 0, "member": "nowhere"}, True, 404),
    ("/what-if", {"say": "x", "at": 999}, True, 404),
    ("/what-if", {"say": " ", "at": 0}, True, 409),
    ("/what-if", {"say": "x", "at": 0.0}, True, 201),
]


async def test_a_body_is_refused_as_wrong_exactly_where_the_document_does_not_accept_it(
    redis: RedisServer, api: DescribedApi
) -> None:
    offer_aggregator(redis)
    ScriptedProducer(redis, "here").offer()
    session = (await api.ask("POST", "/api/sessions", 201, json={"prompt": "a"}))["session"]
    for path, body, is_accepted, status in BODIES:
        shown = f"/api/sessions{'/{session}' + path if path else ''}"
        assert api.accepts("POST", shown, body) is is_accepted, body
        await api.ask("POST", shown.format(session=session), status, json=body)


async def test_a_query_is_refused_as_wrong_exactly_where_the_document_does_not_accept_it(
    redis: RedisServer, api: DescribedApi
) -> None:
    offer_aggregator(redis)
    for model in ("here", "there"):
        ScriptedProducer(redis, model).offer()
    session = (await api.ask("POST", "/api/sessions", 201, json={"prompt": "a"}))["session"]
    parameters = {
        one["name"]: one
        for path in api.document["paths"].values()
        for operation in path.values()
        for one in operation["parameters"]
        if one["in"] == "query"
    }
    assert parameters["other"]["required"]
    assert parameters["other"]["schema"]["minLength"] == parameters["member"]["schema"]["minLength"] == 1
    for name in ("window_index", "from", "to"):
        assert parameters[name]["schema"]["maximum"] == 10**15 - 1
    path = f"/api/sessions/{session}"
    await api.ask("GET", f"{path}?window_index={10**15}", 400)
    await api.ask("GET", f"{path}?window_index={10**15 - 1}", 404)
    await api.ask("GET", f"{path}/tokens", 409)
    await api.ask("GET", f"{path}/tokens?member=nowhere", 404)
    await api.ask("GET", f"{path}/tokens?member=0&from=2&to=1", 409)
    await api.ask("POST", f"{path}/members/nowhere/cancel", 404)
