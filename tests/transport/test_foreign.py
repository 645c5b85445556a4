"""Values that another client, or another version of the council, wrote into shared keys are skipped, and counted."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.web.api.replies import CouncilStatus
from schemas import keys
from schemas.errors import Malformed, SessionGone
from schemas.processes import ProcessRecord, decode_record, encode_record
from schemas.rules.served import served_models
from tests.support.council_command import council
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.sessions import check_the_law, opening_of, until_ended
from tests.support.waiting import until
from tests.support.web_server import WebServer
from transport.redis.connection import AsyncPipe
from transport.register import list_processes, read_register
from transport.sessions import find_session, list_sessions, open_session
from transport.status import read_status

RECORD: dict[str, Any] = msgspec.to_builtins(ProcessRecord("p", "producer", "h", 1, 2, True, 3, 4.5, {"model": "m"}))
UNREADABLE = [
    b"",
    b"\xff\xfe",
    b"not JSON",
    b"[1, 2]",
    b"{}",
    b"[" * 100_000,
    *(
        msgspec.json.encode(RECORD | change)
        for change in (
            {"role": "oracle"},
            {"detail": {"models": ["a", "b"]}},
            {"detail": []},
            {"detail": {"deep": {"x": 1}}},
            {"rss_bytes": -5},
            {"started_ms": 2**60},
            {"cpu_s": -0.5},
            {"pid": "12"},
            {"ready": None},
        )
    ),
]
# Details of a known role that this role does not write, or that have the names of the record's own fields.
STRANGE = [
    RECORD | {"detail": {"pid": "twelve", "up_s": "long", "ready": "yes", "rss_bytes": True, "host": 4}},
    RECORD | {"detail": {}},
    RECORD | {"detail": {"windows_late": "many", "used_ms": "never", "slots": "two", "residency": "here"}},
    RECORD | {"role": "council"},
    RECORD | {"role": "council", "detail": {"tiers": "{", "members": "7", "models": 3, "tier": False}},
]


async def put(pipe: AsyncPipe, name: bytes, raw: bytes) -> None:
    key = keys.process("").encode() + name
    await pipe.run([("SET", key, raw, "EX", 60), ("ZADD", keys.PROCESSES, 2**50, name), ("EXPIRE", keys.PROCESSES, 60)])


@pytest.mark.parametrize("raw", UNREADABLE, ids=range(len(UNREADABLE)))
async def test_a_record_that_does_not_decode_is_skipped_and_counted(pipe: AsyncPipe, raw: bytes) -> None:
    await put(pipe, b"sound", msgspec.json.encode(RECORD))
    await put(pipe, b"foreign \xff", raw)
    found = await read_register(pipe)
    assert ([record.name for record in found.records], found.unreadable) == (["p"], 1)
    assert await list_processes(pipe) == found.records
    status = CouncilStatus.model_validate(await read_status(pipe))
    assert ([process.name for process in status.processes], status.unreadable_records) == (["p"], 1)


async def test_a_record_of_another_type_and_a_name_without_a_record_break_nothing(pipe: AsyncPipe) -> None:
    await put(pipe, b"gone", b"")
    await pipe.run([("DEL", keys.process("gone")), ("RPUSH", keys.process("list"), "x")])
    await pipe.run([("EXPIRE", keys.process("list"), 60), ("ZADD", keys.PROCESSES, 1, "list")])
    assert await read_register(pipe) == ([], 1)


@pytest.mark.parametrize("record", STRANGE, ids=range(len(STRANGE)))
async def test_strange_details_of_a_record_break_no_status(
    redis: RedisServer, pipe: AsyncPipe, record: dict[str, Any]
) -> None:
    await put(pipe, b"p", msgspec.json.encode(record))
    status = CouncilStatus.model_validate(await read_status(pipe))
    assert [(process.name, process.pid) for process in status.processes] == [("p", 1)]
    shown = council("status", url=redis.url)
    assert shown.code == 0, shown.said
    assert all(facts.model for facts in served_models(await list_processes(pipe)))


_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_json = st.recursive(_values, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(st.dictionaries(st.sampled_from(list(RECORD)), _json), st.dictionaries(st.text(), _json))
def test_what_decodes_as_a_record_can_be_encoded_again(change: dict[str, Any], detail: dict[str, Any]) -> None:
    for record in (RECORD | change, RECORD | {"detail": detail}):
        try:
            found = decode_record(msgspec.json.encode(record))
        except Malformed:
            continue
        assert decode_record(encode_record(found)) == found


async def test_the_council_works_beside_values_of_another_client(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe, web: WebServer, client: aiohttp.ClientSession
) -> None:
    """In every shared key: records, announced sessions and their state, orders."""
    for number, raw in enumerate(UNREADABLE):
        await put(pipe, b"foreign-%d \xff" % number, raw)
    names = [b"\xff\xfe", b"", b"a}b{c", b"text", b"list", b"hash", b"half"]
    await pipe.run([("XADD", key, "*", "s", name) for key in (keys.SESSIONS, keys.KEEP) for name in names])
    await pipe.run([("XADD", keys.SESSIONS, "*", "a", "1", "b", "2"), ("RPUSH", keys.state("list"), "x")])
    await pipe.run([("HSET", keys.state("hash"), "status", "open"), ("SET", keys.state("text"), "x")])
    half = ("status", "open", "opened", "1-1", "window", "-7", "epoch", "x", "cut", "9" * 5_000 + "-1")
    await pipe.run([("HSET", keys.state("half"), *half), ("XADD", keys.tokens("half"), "1-1", "e", "x")])
    written = [keys.SESSIONS, keys.KEEP, *(keys.state(name) for name in ("list", "hash", "text", "half"))]
    await pipe.run([("EXPIRE", key, 600) for key in (*written, keys.tokens("half"))])
    started = [
        roles.start("aggregator"),
        roles.start("producers", "ngram:word-3", "--tokens-per-s", "200", COUNCIL_DRAIN_S="0"),
        roles.start("consumers.decipher"),
        roles.start("consumers.recorder"),
    ]
    for role in started:
        role.wait_ready()
    opening = opening_of("ngram:word-3", max_tokens=20)
    await open_session(pipe, opening)
    await until_ended(pipe, opening.session)
    await check_the_law(pipe, opening.session)

    async def is_composed() -> bool:
        state = await find_session(pipe, opening.session)
        return keys.entry_order(state.decipher)[0] == state.window + 1

    await until(is_composed, "DECIPHER has composed every frame")

    async def has_no_orders() -> bool:
        return bool(await pipe.one("XLEN", keys.KEEP) == 0)

    await until(has_no_orders, "the recorder has deleted every order")
    assert [state.session for state in await list_sessions(pipe)] == [opening.session]
    for name in ("list", "hash", "text", "half", "\ufffd\ufffd"):
        with pytest.raises(SessionGone):
            await find_session(pipe, name)
    async with client.get(f"{web.http}/api/status") as answer:
        assert (answer.status, (await answer.json())["unreadable_records"]) == (200, len(UNREADABLE))
    async with client.post(f"{web.http}/api/sessions", json={"prompt": "hi", "models": ["ngram:word-3"]}) as answer:
        assert answer.status == 201, await answer.text()
    shown = council("status", url=redis.url)
    assert f"Process records that this version cannot read: {len(UNREADABLE)}." in shown.out
    assert council("sessions", url=redis.url).code == 0
    for role in started:
        assert role.end() == 0, role.log()
        assert "Traceback" not in role.log()
    await pipe.run([("DEL", *written)])
