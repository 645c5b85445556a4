"""Councils with different prefixes on one Redis: neither reads or writes a key of the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from council.settings.schema import load_settings
from schemas import keys
from schemas.errors import Refused
from tests.support.council_command import council
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import roles_on
from tests.support.sessions import check_all_finished, opening_of, until_ended
from tests.support.waiting import until
from transport.redis.cluster import Command, KeyedCommand
from transport.redis.connection import AsyncPipe
from transport.redis.namespace import named
from transport.redis.prefix import with_prefix
from transport.register import list_processes
from transport.sessions import find_session, list_sessions, open_session

SESSION = "0123456789ab"
PROMPT = "What is a secret of team a?"


@pytest.fixture
def team_url(each_redis: RedisServer) -> Iterator[str]:
    """The URL of a council whose Redis user may use keys of its own prefix alone."""
    each_redis.run("ACL", "SETUSER", "team", "on", ">word", "~team-a:*", "&*", "+@all")
    yield each_redis.url.replace("unix://", "unix://team:word@") + "?prefix=team-a"
    each_redis.run("ACL", "DELUSER", "team")


async def test_a_council_uses_keys_of_its_own_prefix_alone(each_redis: RedisServer, team_url: str) -> None:
    """The session, its events and its roles run as a user that Redis allows no other key."""
    pipe, other = AsyncPipe(team_url), AsyncPipe(each_redis.url)
    each_redis.run("ACL", "LOG", "RESET")
    with roles_on(team_url) as roles:
        for role in (["aggregator"], ["producers", "ngram:word-3"], ["producers", "ngram:char-6"]):
            roles.start(*role, COUNCIL_NGRAM_TOKENS_PER_S="200")
        decipher = roles.start("consumers.decipher")
        decipher.wait_ready()
        opening = opening_of("ngram:word-3", "ngram:char-6", max_tokens=8, prompt=PROMPT)
        await open_session(pipe, opening)
        await until_ended(pipe, opening.session)
        await check_all_finished(pipe, opening.session)

        async def is_composed() -> bool:
            return bool(await pipe.one("XLEN", keys.events(opening.session)))

        await until(is_composed, "events are composed")
        assert each_redis.run("KEYS", "council*") == []
        names = each_redis.run("KEYS", "*")
        assert isinstance(names, list)
        assert {name.partition(b":")[0] for name in names} == {b"team-a"}
        assert each_redis.run("ACL", "LOG") == []
        # The council with the default prefix sees neither the session, nor its prompt, nor its models.
        assert await list_sessions(other) == []
        assert await list_processes(other) == []
        assert [one.session for one in await list_sessions(pipe)] == [opening.session]
    for name in names:
        assert each_redis.run("TTL", name) != -1, name
    await pipe.close()
    await other.close()


async def test_the_same_session_id_is_another_session_with_another_prefix(each_redis: RedisServer) -> None:
    pipes = [AsyncPipe(each_redis.url + option) for option in ("", "?prefix=b", "?prefix=b.c")]
    for number, pipe in enumerate(pipes):
        opening = opening_of("m", prompt=f"Prompt {number}?")
        await open_session(pipe, opening)
        assert (await find_session(pipe, opening.session)).status == "open"
        assert len(await list_sessions(pipe)) == 1
    for pipe in pipes:
        await pipe.close()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("GET", "council:x"), ("GET", "b:x")),
        (("GET", b"council:process:\xff\xfe"), ("GET", b"b:process:\xff\xfe")),
        (("DEL", "council:x", "council:y"), ("DEL", "b:x", "b:y")),
        (("XGROUP", "CREATE", "council:sessions", "council:g", 0), ("XGROUP", "CREATE", "b:sessions", "council:g", 0)),
        (("EVALSHA", "sha", 2, "council:x", "council:y", "council:z"),
         ("EVALSHA", "sha", 2, "b:x", "b:y", "council:z")),
        (("XREAD", "COUNT", 1, "STREAMS", "council:x", "council:y", "0", "1-0"),
         ("XREAD", "COUNT", 1, "STREAMS", "b:x", "b:y", "0", "1-0")),
        (("SET", "council:x", "council:value"), ("SET", "b:x", "council:value")),
        (("GET", "councils"), ("GET", "councils")),
        (("MULTI",), ("MULTI",)),
    ],
)  # fmt: skip
def test_each_key_of_a_command_gets_the_prefix_and_nothing_else(command: Command, expected: Command) -> None:
    assert list(named([command], "b")) == [expected]


def test_a_command_for_a_key_s_node_goes_to_the_node_of_its_prefixed_key() -> None:
    (found,) = named([KeyedCommand(keys.state(SESSION), ("TIME",))], "b")
    assert isinstance(found, KeyedCommand)
    assert (found, found.key) == (("TIME",), f"b:{{{SESSION}}}:state")


@given(st.text(max_size=70))
def test_a_prefix_is_valid_or_refused_in_one_sentence(prefix: str) -> None:
    with contextlib.suppress(Refused):
        url = with_prefix("redis://127.0.0.1:6379/0", prefix)
        assert prefix
        assert not set(prefix) & set("{}: /?#&*")
        assert with_prefix(url, prefix) == url


def test_a_prefix_from_the_settings_becomes_part_of_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:6379/0?db=1")
    monkeypatch.setenv("COUNCIL_PREFIX", "team-a")
    assert load_settings(None, {}).redis_url == "redis://127.0.0.1:6379/0?db=1&prefix=team-a"
    monkeypatch.setenv("COUNCIL_PREFIX", "")
    assert load_settings(None, {}).redis_url == "redis://127.0.0.1:6379/0?db=1"
    monkeypatch.delenv("REDIS_URL")
    assert load_settings(None, {}).redis_url is None


def test_an_invalid_prefix_and_two_prefixes_are_refused() -> None:
    council("sessions", url="redis://127.0.0.1:1/0", COUNCIL_PREFIX="a:b").assert_refused("COUNCIL_PREFIX", "letters")
    council("sessions", url="redis://127.0.0.1:1/0?prefix=a:b").assert_refused("prefix 'a:b' is not valid")
    outcome = council("sessions", url="redis://127.0.0.1:1/0?prefix=a", COUNCIL_PREFIX="b")
    outcome.assert_refused("has another prefix", "'b'", "remove one")
