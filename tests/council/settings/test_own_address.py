"""Which URLs lead to the address on which a council listens."""

from __future__ import annotations

import socket

import pytest

from council.settings.own_address import Listening, leads_to, own_address
from council.settings.schema import Settings
from council.settings.server import Server

HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("host", "url", "leads"),
    [
        *(("127.0.0.1", f"http://{name}:8145", True) for name in (
            "127.0.0.1", "localhost", "LOCALHOST", "council.localhost", "127.1", "2130706433", "0x7f.1", "0.0.0.0",
            "[::ffff:127.0.0.1]", "[::]",
        )),
        *(("localhost", f"http://{name}:8145/v1", True) for name in ("127.0.0.1", "[::1]", "localhost")),
        *((wildcard, f"http://{name}:8145/v1", True) for wildcard in ("0.0.0.0", "::", "") for name in (
            "127.0.0.1", "127.0.0.9", "localhost", "[::1]", "0.0.0.0", HOST,
        )),
        ("127.0.0.1", "http://127.0.0.1:8146", False),
        ("127.0.0.1", "http://127.0.0.1", False),
        # Another server may listen there.
        ("127.0.0.1", "http://127.0.0.9:8145", False),
        ("192.0.2.7", "http://127.0.0.1:8145", False),
        ("192.0.2.7", "http://192.0.2.7:8145", True),
        # Not an address of this machine.
        ("0.0.0.0", "http://192.0.2.7:8145", False),
        ("0.0.0.0", "http://name.invalid:8145", False),
    ],
)  # fmt: skip
async def test_a_url_leads_to_the_council_by_each_of_its_names(host: str, url: str, *, leads: bool) -> None:
    # As the settings read it.
    address = Server.model_validate({"url": url}).address
    assert await leads_to(address, Listening(host, 8145)) == leads


async def test_the_port_of_a_scheme_is_its_own() -> None:
    assert await leads_to("http://localhost/v1", Listening("127.0.0.1", 80))
    assert await leads_to("https://localhost", Listening("127.0.0.1", 443))


def test_a_default_port_that_may_move_is_not_the_councils_address() -> None:
    assert own_address(Settings()) is None
    assert own_address(Settings(port=0)) is None
    assert own_address(Settings(port=8145, host="0.0.0.0")) == ("0.0.0.0", 8145)
