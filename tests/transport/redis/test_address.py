"""Redis URLs: what they mean, and that nothing secret in them is ever shown, whatever a person wrote."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.errors import Refused
from transport.redis.address import HOW_TO_ENCODE, Address, without_password

HOST = "h1.example:6379"
# Every form of URL with a login or a secret option, and all that may be shown of it, the longest first.
FORMS = {
    f"redis://:{{0}}@{HOST}/0": (f"redis://{HOST}/0", f"redis://{HOST}"),
    f"redis://{{0}}@{HOST}/0": (f"redis://{HOST}/0", f"redis://{HOST}"),
    f"redis://{{0}}:pw@{HOST}": (f"redis://{HOST}",),
    f"rediss://me:{{0}}@{HOST},h2/0?db=1": (f"rediss://{HOST},h2/0", f"rediss://{HOST},h2"),
    f"redis://{HOST}/0?password={{0}}": (f"redis://{HOST}/0", f"redis://{HOST}"),
    f"redis+sentinel://:{{0}}@{HOST}/main/2": (f"redis+sentinel://{HOST}/main/2", f"redis+sentinel://{HOST}"),
    f"redis+sentinel://{HOST}/main?sentinel_password={{0}}": (
        f"redis+sentinel://{HOST}/main", f"redis+sentinel://{HOST}",
    ),
    "unix://:{0}@/run/redis.sock": ("unix:///run/redis.sock",),
    "unix:///run/redis.sock?password={0}": ("unix:///run/redis.sock",),
}  # fmt: skip
AWKWARD = "#/?@%:[]&=+ \t\n\r\\\"'aZ0-_.,ü℀\u2028\U0001f511"
SECRETS = st.text(st.sampled_from(AWKWARD), min_size=1, max_size=12) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12
)


def address(url: str) -> Address | str:
    """The address, or the sentence that refuses it."""
    try:
        return Address(url)
    except Refused as error:
        return str(error)


def login(found: Address) -> tuple[Any, Any]:
    connection: Any = found.connection()
    return connection.username, connection.password


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=150)
@given(secret=SECRETS)
@example(secret="S3cr3t#Pw9")
@example(secret="S3cr3t/Pw9")
@example(secret="63?79")
@example(secret="S3cr3t@Pw9")
@example(secret="a@evil:1/0")
@example(secret="a")
@example(secret="redis")
@example(secret=HOST)
def test_nothing_of_a_secret_is_shown(form: str, secret: str) -> None:
    """What is shown is one of a few texts, which do not depend on the secret."""
    url = form.format(secret)
    scheme = f"{form.partition('://')[0]}://…"
    assert without_password(url) in (*FORMS[form], scheme)
    found = address(url)
    if isinstance(found, str):
        # The sentences are the same for all URLs but for what is shown of them.
        others = ("redis://h/x", "redis://h?x=1")
        sentences = [str(address(other)).replace("redis://h", "{}") for other in others]
        assert found in [sentence.format(shown) for sentence in sentences for shown in (*FORMS[form], scheme)]


@settings(max_examples=300)
@given(SECRETS, SECRETS)
def test_a_login_is_taken_as_it_is_written_or_refused(user: str, password: str) -> None:
    encoded = Address(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@{HOST}/0")
    assert login(encoded) == (user, password)
    raw = address(f"redis://me:{password}@{HOST}/0")
    if isinstance(raw, Address):
        assert quote(login(raw)[1], safe=":%") == quote(password, safe=":%")
    else:
        assert HOW_TO_ENCODE in raw


@given(st.text(max_size=20))
@example("S3cr3t")
@example(":S3cr3t#Pw9@127.0.0.1:6379/0")
def test_of_a_text_without_a_known_scheme_nothing_is_shown(text: str) -> None:
    assert without_password(text) == ""
    assert without_password(f"http://{text}") == ""


@pytest.mark.parametrize("character", "#/?@%[] ")
def test_a_character_that_must_be_encoded_is_named(character: str) -> None:
    with pytest.raises(Refused, match=re.escape(f"{quote(character, safe='')} for")) as raised:
        Address(f"redis://:S3cr3t{character}Pw9@127.0.0.1:6379/0")
    assert not re.search("S3cr3t|Pw9", str(raised.value))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:S3cr3t@127.0.0.1:6379/zero", "redis://127.0.0.1:6379"),
        ("redis://127.0.0.1:6379/0#here", "redis://127.0.0.1:6379"),
        ("redis://me:100%@[::1]:6379/0", "redis://[::1]:6379"),
        ("redis://127.0.0.1:port/0", "redis://…"),
        ("redis://user:S3cr3t", "redis://…"),
        ("redis://a..b:6379/0", "redis://a..b:6379/0"),
        ("redis://127.0.0.1:70000", "redis://127.0.0.1:70000"),
        ("redis://127.0.0.1:0", "redis://127.0.0.1:0"),
        ("unix://run/redis.sock", "unix://…"),
        ("redis+sentinel://me:S3cr3t@one,two", "redis+sentinel://one,two"),
    ],
)
def test_of_a_wrong_url_scheme_and_host_are_shown_where_the_host_is_certain(url: str, shown: str) -> None:
    assert without_password(url) == shown
    with pytest.raises(Refused, match=re.escape(f"'{shown}' is not a valid Redis URL: write redis://")):
        Address(url)


def test_a_path_of_a_socket_may_have_any_name() -> None:
    found = Address("unix://me:p%2Fw@/run/my redis%401/a.sock?db=3")
    connection: Any = found.connection()
    assert (connection.path, connection.db, *login(found)) == ("/run/my redis@1/a.sock", 3, "me", "p/w")
    assert without_password("unix:///run/my redis@1/a.sock") == "unix:///run/my redis@1/a.sock"


def test_sentinels_have_a_login_of_their_own() -> None:
    found = Address(f"rediss+sentinel://me:a%23b@{HOST}/main/2?sentinel_username=s&sentinel_password=c%26%2525d")
    sentinel: Any = found.sentinel(("h1", 1))
    assert (sentinel.username, sentinel.password, sentinel.db) == ("s", "c&%25d", 0)
    assert login(found) == ("me", "a#b")
