"""API keys: they come from the environment, are sent to their server, and are never shown."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.backend import BackendFailed, Request
from producers.openai.backend import OpenAIBackend
from producers.servers.api_key import ApiKey
from producers.source import ModelSource
from schemas.errors import Refused
from tests.support.faulty_server import FaultyServer, faulty_server

KEY = "sk-proj-7Hq2mZ0pLwX9vT4c"
VARIABLE = "SOME_SERVER_KEY"
REQUEST = Request("Why?", "", max_tokens=40, temperature=0.7, seed=3, top_k=20, silence_ms=5_000)
QUICKLY_S = 10.0


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with faulty_server() as running:
        yield running


def backend_of(server: FaultyServer, model: str) -> OpenAIBackend:
    return OpenAIBackend(model, ModelSource("openai", model, server.url, key_env=VARIABLE))


async def sentence_of(backend: OpenAIBackend) -> str:
    await backend.start()
    try:
        async with asyncio.timeout(QUICKLY_S):
            with pytest.raises(BackendFailed) as failed:
                await anext(backend.generate(REQUEST))
    finally:
        await backend.close()
    return str(failed.value)


def shows(text: str, key: str) -> bool:
    """True where the text contains eight characters of the key in a row."""
    return any(key[at : at + 8] in text for at in range(len(key) - 7))


async def test_a_key_is_sent_to_its_server_with_every_request(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f" {KEY}\n")
    backend = backend_of(server, "good")
    await backend.start()
    async with asyncio.timeout(QUICKLY_S):
        assert [item async for item in backend.generate(REQUEST)]
    await backend.close()
    assert len(server.looks) > 1
    assert all(f"\r\nAuthorization: Bearer {KEY}\r\n" in head for head in [*server.looks, *server.heads])


async def test_a_server_that_quotes_the_key_shows_nothing_of_it(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(VARIABLE, KEY)
    backend = backend_of(server, "locked")
    sentence = await sentence_of(backend)
    assert sentence == (
        f"locked at {server.url} rejects the API key (HTTP 401: Incorrect API key provided: …. It ends with …. You can "
        f"find yours at ...): correct it in the variable {VARIABLE}"
    )
    shown = (sentence, caplog.text, repr(backend), repr(backend.facts), str(backend.facts.as_detail()))
    assert not any(shows(text, KEY) for text in shown)
    assert not shows(repr(vars(backend)), KEY)


async def test_a_traceback_does_not_contain_the_key(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a failure after the server has closed the connection."""
    monkeypatch.setenv(VARIABLE, KEY)
    backend = backend_of(server, "hangs_up")
    await backend.start()
    with pytest.raises(BackendFailed) as failed:
        await anext(backend.generate(REQUEST))
    await backend.close()
    assert not shows("".join(traceback.format_exception(failed.value)), KEY)


async def test_without_a_key_the_message_tells_what_is_missing(server: FaultyServer) -> None:
    backend = OpenAIBackend("locked", ModelSource("openai", "locked", server.url))
    assert "name its environment variable with key_env" in await sentence_of(backend)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_key_is_refused_with_the_name_of_its_variable(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(Refused, match=VARIABLE):
        OpenAIBackend("m", ModelSource("openai", "m", "http://gpu", key_env=VARIABLE))


@pytest.mark.parametrize("key", [f"Bearer {KEY}", f"{KEY}\n{KEY}", f"{KEY}é", f"{KEY}\x00", f"{KEY}\r\nX: y"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(Refused, match=VARIABLE) as refused:
        ApiKey(VARIABLE, {VARIABLE: key})
    assert not shows(str(refused.value), KEY)


KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60)


@given(KEYS, st.text(), st.text(), st.integers(0, 60))
def test_however_a_key_is_quoted_nothing_of_it_is_shown(key: str, before: str, after: str, cut: int) -> None:
    """Whole, and cut at the end of the text, as long messages are."""
    secret = ApiKey("VARIABLE", {"VARIABLE": key})
    for text in (f"{before}{key}{after}", f"{before}{key}{key}", f"{before}{key[:cut]}…", f"{before}{key}"[: cut + 8]):
        assert not shows(secret.cut_from(text), key)


def test_the_beginning_of_a_key_at_the_end_is_cut() -> None:
    secret = ApiKey("VARIABLE", {"VARIABLE": KEY})
    assert secret.cut_from(f"the key {KEY[:5]}…") == "the key ……"
    assert secret.cut_from(f"the key {KEY[:5]}") == "the key …"


@given(st.text(max_size=40))
def test_a_text_without_the_key_is_not_changed(text: str) -> None:
    assert ApiKey("VARIABLE", {"VARIABLE": "\x21" * 30 + KEY}).cut_from(text) == text or "!!!!" in text
    assert ApiKey("VARIABLE", {"VARIABLE": "abc"}).cut_from(text) == text


def test_a_key_inside_a_longer_text_is_cut() -> None:
    secret = ApiKey("VARIABLE", {"VARIABLE": KEY})
    client = httpx.Client(auth=secret)
    request = client.build_request("GET", "http://gpu")
    assert not shows(f"{secret!r} {secret} {[secret]} {client!r} {request!r} {request.headers!r}", KEY)
    sent = next(secret.sync_auth_flow(request))
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert not shows(repr(sent.headers), KEY)
    assert not shows(repr(msgspec.structs.asdict(ModelSource("openai", "m", "http://gpu", key_env=VARIABLE))), KEY)
