"""Councils among the model servers: a council never asks itself, and asks another one only where that is allowed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from council.doctor.server_checks import server_findings
from council.doctor.server_trial import server_named, try_server
from council.models.catalogue import find_models
from council.models.membership import council_of
from council.settings.own_address import Listening
from council.settings.schema import Settings
from producers.openai.councils import IS_COUNCIL, IS_ITSELF
from schemas.errors import Refused
from tests.council.models.test_models import call, settings_file
from tests.producers.openai.test_councils import COUNCIL, MODELS
from tests.support.clusters import free_port
from tests.support.council_command import council, environment
from tests.support.exact_server import exact_server
from tests.support.running_council import Up
from tests.support.waiting import wait_until

OWN = "is the address of this council itself, and a council with itself as a member asks itself without end"


@contextlib.contextmanager
def relay(port: int, target: int) -> Iterator[None]:
    """Another address of the server at `target`, as a proxy is."""
    command = [sys.executable, "-m", "runtime.relay", str(port), f"127.0.0.1:{target}"]
    process = subprocess.Popen(command, env=environment())

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return call(f"http://127.0.0.1:{port}", "GET", "/healthz")[0] == 200
        return False

    try:
        wait_until(answers, "the relay passes requests on")
        yield
    finally:
        process.terminate()
        process.wait(10)


def test_a_council_never_asks_itself_and_another_one_only_where_that_is_allowed(tmp_path: Path) -> None:
    """Its own address is refused at once. That of a proxy before it is found when the member is asked: the council did
    not run when its servers were asked for their models."""
    port, mirror = free_port(), free_port()
    models = 'models = ["{}"]\n'
    config = settings_file(
        tmp_path,
        itself=f'url = "http://localhost:{port}"\nallow_council = true\n',
        mirror=f'url = "http://127.0.0.1:{mirror}"\nallow_council = true\n{models.format("council:ngram:char-6")}',
        closed=f'url = "http://localhost:{mirror}"\n{models.format("council")}',
    )
    words = ["--config", config, "--port", str(port), "--models", "ngram:char-6,council:ngram:char-6,council"]
    with contextlib.closing(Up(tmp_path, *words, default_port=True)) as up, relay(mirror, port):
        assert f"The server 'itself': http://localhost:{port} {OWN}" in up.text()
        asked = council("ask", "hi", "--max-tokens", "5", "--json", TMPDIR=str(tmp_path))
        members = asked.lines[-1]["members"]
        assert [member["state"] for member in members] == ["finished", "dropped", "dropped"]
        reasons = [member["reason"] for member in members[1:]]
        assert [reason.partition(f":{mirror} ")[2] for reason in reasons] == [IS_ITSELF, IS_COUNCIL]
        assert len(call(up.address, "GET", "/api/sessions")[1]["sessions"]) == 1, "the council has asked itself"

        other = tmp_path / "other"
        other.mkdir()
        once = ["--models", "council:ngram:char-6", "--max-tokens", "5", "--json"]
        config = settings_file(other, first=f'url = "http://127.0.0.1:{port}"\nallow_council = true\n')
        asked = council("ask", "hi", "--config", config, *once, TMPDIR=str(other))
        assert [member["state"] for member in asked.lines[-1]["members"]] == ["finished"]
        assert len(call(up.address, "GET", "/api/sessions")[1]["sessions"]) == 2


@pytest.mark.parametrize("named", [{}, {"models": ["council:consensus"]}])
async def test_a_model_of_the_councils_own_address_is_refused_by_name(named: dict[str, list[str]]) -> None:
    server = {"url": "http://localhost:8145/v1", "allow_council": True, **named}
    settings = Settings(servers={"itself": server}, models=["council:consensus"], ollama=False)
    found = await find_models(settings, own=Listening("127.0.0.1", 8145))
    with pytest.raises(
        Refused, match=f"no model 'council:consensus'.* The server 'itself': http://localhost:8145/v1 {OWN}"
    ):
        council_of(settings, found, settings.tier_policy)


async def test_the_doctor_and_a_check_explain_a_council_and_how_to_allow_it() -> None:
    async with exact_server({MODELS: COUNCIL}) as server:
        for allowed, status in ((False, "missing"), (True, "ok")):
            settings = Settings(servers={"box": {"url": server.url, "allow_council": allowed}})
            (found,) = await server_findings("box", settings.servers["box"], settings, {})
            assert found.status == status
            assert allowed or (found.said, "[servers.box]" in found.advice) == (f"{server.url} {IS_COUNCIL}.", True)
            trial = await try_server(*server_named(server.url, settings, None, None), settings)
            assert trial.failure == f"{server.url} {IS_COUNCIL}"
        port = settings.servers["box"].url.port
        settings = Settings(servers={"box": {"url": server.url, "allow_council": True}}, port=port)
        (found,) = await server_findings("box", settings.servers["box"], settings, {})
        trial = await try_server("box", settings.servers["box"], settings)
        assert (found.status, OWN in found.said, OWN in trial.failure) == ("missing", True, True)
        assert len(server.asked) == 4, "its own address is not asked"
