"""What a user who lacks a right, or has a wrong password, is told, on each server; docs/security.md has all rights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis._parsers.base import BaseParser

from council.doctor.machine_checks import redis_finding
from schemas.errors import RedisRefuses, Refused
from tests.support.council_command import Outcome, environment
from tests.support.redis_servers import RedisServer
from tests.support.sessions import opening_of
from transport.redis.address import Address
from transport.redis.connection import AsyncPipe, Pipe, accepted
from transport.redis.refusals import in_words, login_problem, missing_right
from transport.redis.server_check import check_server
from transport.rights import check_rights, missing_rights
from transport.sessions import open_session

NAME = "s3cr3tName"
Restrict = Callable[..., str]


@pytest.fixture
def restrict(each_redis: RedisServer) -> Iterator[Restrict]:
    """Makes a user with all rights but those given; the server's URL as this user."""

    def make(*rights: str) -> str:
        each_redis.run("ACL", "SETUSER", NAME, "reset", "on", ">pw", "~*", "+@all", *rights)
        return each_redis.url.replace("unix://", f"unix://{NAME}:pw@")

    yield make
    each_redis.run("ACL", "DELUSER", NAME)


def refused(url: str, check: Callable[[str], None] = check_rights) -> str:
    with pytest.raises(Refused) as raised:
        check(url)
    assert raised.value.code == "redis_refused"
    assert NAME not in str(raised.value)
    return str(raised.value)


def test_each_missing_right_is_named_with_what_to_do(restrict: Restrict) -> None:
    assert missing_rights(Address(restrict())) == []
    assert refused(restrict("-xadd", "-xgroup")).endswith(
        "lacks rights (it may not run XADD, XGROUP CREATE, XGROUP DESTROY, XGROUP DELCONSUMER): add them there with "
        "`ACL SETUSER NAME +xadd +xgroup|create +xgroup|destroy +xgroup|delconsumer`."
    )
    assert missing_rights(Address(restrict("-multi", "-exec", "-script", "-evalsha"))) == [
        "+script|load", "+evalsha", "+multi", "+exec",
    ]  # fmt: skip
    # Without it no connection is usable.
    assert "`ACL SETUSER NAME +script" in refused(restrict("-script"), check_server)
    finding = redis_finding(restrict("-xread"))
    assert (finding.status, finding.advice) == ("missing", "Add them there with `ACL SETUSER NAME +xread`.")


def test_a_right_to_keys_is_named_with_the_council_s_prefix(restrict: Restrict) -> None:
    assert missing_rights(Address(restrict("resetkeys", "~team-b:*") + "?prefix=team-a")) == ["~team-a:*"]
    assert "it may not use the keys council:*" in refused(restrict("resetkeys", "~council:{*"))


def test_xdel_is_a_right_of_the_recorder_alone(restrict: Restrict) -> None:
    url = restrict("-xdel")
    check_rights(url)
    assert refused(url, lambda url: check_rights(url, ("+xdel",))).endswith("`ACL SETUSER NAME +xdel`.")
    assert redis_finding(url, records=False).status == "ok"


def test_a_full_redis_is_not_a_missing_right(own_redis: RedisServer) -> None:
    """A role waits until there is room."""
    own_redis.run("CONFIG", "SET", "maxmemory", 1)
    check_rights(own_redis.url)


async def test_a_council_works_without_the_right_to_info(restrict: Restrict) -> None:
    url = restrict("-info")
    check_rights(url)
    check_server(url)
    pipe = AsyncPipe(url)
    await open_session(pipe, opening_of("m"))
    await pipe.close()
    finding = redis_finding(url)
    assert (finding.status, "+info" in finding.advice) == ("ok", True)


def test_the_right_that_a_script_lacks_is_a_missing_right_and_not_a_wrong_password(
    each_redis: RedisServer, restrict: Restrict
) -> None:
    url = restrict("-hincrby", "resetkeys", "~council:*")
    pipe = Pipe(url)
    for key, command, words in (
        ("council:a", "'HINCRBY', KEYS[1], 'f', 1", "lacks"), ("council:a", "'GET', 'other'", "the right ~council:*"),
    ):  # fmt: skip
        (reply,) = pipe.run([("EVAL", f"return redis.call({command})", 1, key)])
        assert missing_right(reply) is not None
        assert login_problem(reply) is None
        with pytest.raises(RedisRefuses, match=f"^Redis refuses: this user {words}" if words == "lacks" else words):
            accepted(reply)
    pipe.close()


def test_a_wrong_or_missing_password_is_not_a_missing_right(each_redis: RedisServer, restrict: Restrict) -> None:
    restrict()
    for login, words in ((f"{NAME}:wrong@", "the user name or the password is wrong"), ("", "it requires a password")):
        each_redis.run("CONFIG", "SET", "requirepass", "" if login else "secret")
        try:
            for check in (check_server, check_rights):
                said = refused(each_redis.url.replace("unix://", f"unix://{login}"), check)
                assert words in said
                assert "refuses the connection" in said
                assert "ACL SETUSER" not in said
        finally:
            if not login:
                with_password = Pipe(each_redis.url.replace("unix://", "unix://:secret@"))
                with_password.run([("CONFIG", "SET", "requirepass", "")])
                with_password.close()


@given(st.text(st.characters(codec="ascii", exclude_characters="'\""), min_size=1))
def test_no_user_name_and_no_argument_is_in_the_words_for_an_error(secret: str) -> None:
    for text, expected in (
        (
            f"NOPERM User {secret} has no permissions to run the 'xinfo|groups' command",
            "this user lacks the right +xinfo|groups",
        ),
        (
            f"ERR ACL failure in script: User {secret} has no permissions to run the 'time' command script: x.",
            "this user lacks the right +time",
        ),
        (f"ERR unknown command 'AUTH', with args beginning with: '{secret}' ", "unknown command 'AUTH'"),
        (f"ERR unknown command `XADD`, with args beginning with: `{secret}`, ", "unknown command `XADD`"),
    ):
        assert in_words(BaseParser.parse_error(text)) == expected


@pytest.mark.parametrize(
    "words",
    [["aggregator"], ["council", "up", "--no-open", "--port", "0", "--models", "ngram:char-6"]],
    ids=["role", "up"],
)
def test_a_role_and_a_council_without_a_right_say_so_once_and_end(
    words: list[str], redis: RedisServer, tmp_path: Path
) -> None:
    redis.run("ACL", "SETUSER", NAME, "reset", "on", ">pw", "~*", "+@all", "-xadd")
    url = redis.url.replace("unix://", f"unix://{NAME}:pw@")
    done = subprocess.run(
        [sys.executable, "-m", *words], env=environment(url, TMPDIR=str(tmp_path)), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    Outcome(done).assert_refused("it may not run XADD", "`ACL SETUSER NAME +xadd`")
    assert done.stderr.count("\n") == 1
    assert NAME not in done.stderr
