"""`council doctor`: every check ends with a sentence, also if a server hangs, fails or sends nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from council.doctor import doctor
from council.doctor.doctor import examine, is_fit, print_findings
from council.doctor.findings import Finding
from council.doctor.hardware import Card, amd_cards, nvidia_cards
from council.doctor.machine_checks import folder_finding, memory_findings, port_finding, python_finding, redis_finding
from council.doctor.server_checks import gguf_findings, how_to_set, ollama_findings, server_findings
from council.settings.schema import Settings
from runtime.memory import MachineMemory
from schemas.rules.tiers import TIERS, tier_for_memory
from tests.support.llama import needs_llama
from tests.support.ollama.books import StoredModel
from tests.support.ollama.server import ollama_server
from tests.support.redis_servers import RedisServer, redis_binaries
from tests.support.waiting import TIMEOUT_S, wait_until
from tests.support.web_server import WebServer, record_of

GIB = 2**30


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the council, and an address for Ollama at which none answers."""
    for name in [
        name for name in os.environ if name.upper().startswith(("COUNCIL_", "OLLAMA_")) or name == "REDIS_URL"
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    found = {finding.name: finding for finding in findings}
    assert len(found) == len(findings), "two findings of one name"
    return found


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """host:port of a server that accepts every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


# All checks


async def test_each_check_has_a_finding_in_a_fixed_order() -> None:
    findings = await examine(Settings(port=0, servers={"a": {"url": "http://127.0.0.1:2"}}))
    names = [finding.name for finding in findings]
    assert names == [
        *("Python", "Redis", "Temporary folder", "Port", "Browser", "Memory", "Tier"),
        *("Ollama", "Server a", "GGUF files"),
    ]
    assert all(finding.said.endswith((".", "?")) for finding in findings)
    assert all(finding.advice for finding in findings if finding.status != "ok")
    assert not is_fit(findings)  # server a is configured, and is away
    assert is_fit([finding for finding in findings if finding.name != "Server a"])


async def test_nothing_hangs_where_every_server_is_silent() -> None:
    """Each check of a silent server is a finding; they wait at the same time."""
    with (
        black_hole() as hole,
        black_hole() as server,
        black_hole() as ollama,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("OLLAMA_HOST", ollama)
        servers = {
            "a": {"url": f"http://{server}"},
            "b": {"url": f"http://localhost:{server.rpartition(':')[2]}", "api": "ollama"},
        }
        settings = Settings(redis_url=f"redis://{hole}/0", servers=servers, port=int(hole.rpartition(":")[2]))
        async with asyncio.timeout(TIMEOUT_S):
            found = by_name(await examine(settings, within_s=0.3))
    for name, end in (
        ("Redis", f"{hole}/0"),
        ("Server a", server),
        ("Server b", f"localhost:{server.rpartition(':')[2]}"),
    ):
        assert found[name].status == "missing", found[name]
        assert found[name].said.startswith("There was no answer from "), found[name]
        assert found[name].said.endswith(f"{end} within 0.3 s."), found[name]
    assert found["Ollama"].status == "warning"
    assert found["Port"].status == "missing"


async def test_a_check_that_blocks_or_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that never returns is abandoned; an unexpected error is reported; the other findings are complete."""
    forever = threading.Event()

    async def blocks() -> list[Finding]:
        forever.wait()
        return []

    async def breaks() -> list[Finding]:
        raise KeyError("sk-4711")

    async def works() -> list[Finding]:
        return [Finding("works", "ok", "It works.")]

    checks = [doctor._Check("blocks", blocks, "missing"), doctor._Check("breaks", breaks), doctor._Check("x", works)]
    monkeypatch.setattr(doctor, "_checks", lambda _: checks)
    async with asyncio.timeout(TIMEOUT_S):
        blocked, broken, worked = await examine(Settings(), within_s=0.05)
    forever.set()
    assert (blocked.name, blocked.status) == ("blocks", "missing")
    assert "no answer" in blocked.said
    assert (broken.name, broken.status) == ("breaks", "warning")
    assert "KeyError" in broken.said
    assert "4711" not in broken.said
    assert worked.said == "It works."


async def test_a_check_that_waits_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    async def waits() -> list[Finding]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return []

    monkeypatch.setattr(doctor, "_checks", lambda _: [doctor._Check("waits", waits)])
    (finding,) = await examine(Settings(), within_s=0.02)
    assert "no answer" in finding.said
    wait_until(ended.is_set, "the check was cancelled")


FINDINGS = st.builds(
    Finding,
    st.text(max_size=20),
    st.sampled_from(["ok", "warning", "missing"]),
    st.text(max_size=80),
    st.text(max_size=80),
)


@given(st.lists(FINDINGS, max_size=6), st.integers(40, 200))
def test_no_control_character_of_a_server_reaches_the_terminal(findings: list[Finding], width: int) -> None:
    """Nor does markup. The last line lists what is missing."""
    findings = [doctor._shown(finding) for finding in findings]
    out = io.StringIO()
    print_findings(Console(file=out, width=width), findings)
    assert all(character.isprintable() or character == "\n" for character in out.getvalue())
    last = "".join(out.getvalue().split())
    if is_fit(findings):
        assert last.endswith("Nothingismissing.")
    else:
        assert "Missing:" in last


def test_markup_in_a_name_is_shown_as_text() -> None:
    out = io.StringIO()
    print_findings(Console(file=out, width=120), [Finding("[red]x[/red]", "ok", "[bold]m[/bold] :smile:.")])
    assert "[red]x[/red]" in out.getvalue()
    assert "[bold]m[/bold] :smile:." in out.getvalue()


def test_findings_are_json() -> None:
    finding = Finding("Redis", "missing", "None.", "Get one.")
    assert json.loads(msgspec.json.encode([finding])) == [
        {"name": "Redis", "status": "missing", "said": "None.", "advice": "Get one."}
    ]


# This machine


@pytest.mark.parametrize(("version", "status"), [((3, 10, 9), "missing"), ((3, 11, 0), "ok"), ((4, 0, 0), "ok")])
def test_an_old_python_is_missing(version: tuple[int, ...], status: str) -> None:
    assert python_finding(version).status == status


def test_a_redis_that_answers_is_shown_with_its_version(own_redis: RedisServer) -> None:
    finding = redis_finding(own_redis.url)
    assert (finding.status, finding.advice) == ("ok", "")
    assert own_redis.url in finding.said


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_redis_that_evicts_keys_is_a_warning(policy: str, own_redis: RedisServer) -> None:
    """Only where it has a limit: without one it evicts nothing."""
    own_redis.run("CONFIG", "SET", "maxmemory-policy", policy)
    finding = redis_finding(own_redis.url)
    assert (finding.status, policy in finding.said) == ("warning", True)
    assert "CONFIG SET maxmemory-policy noeviction" in finding.advice
    own_redis.run("CONFIG", "SET", "maxmemory", "0")
    assert redis_finding(own_redis.url).status == "ok"


def test_a_redis_that_is_away_is_missing_and_its_password_is_not_shown() -> None:
    finding = redis_finding("redis://me:swordfish@127.0.0.1:1/0")
    assert finding.status == "missing"
    assert finding.said.startswith("No Redis answers at redis://127.0.0.1:1/0")
    assert finding.advice == "Start one there, or correct the URL."
    assert "swordfish" not in str(finding)


def test_the_password_of_a_redis_that_answers_is_not_shown(own_redis: RedisServer) -> None:
    own_redis.run("CONFIG", "SET", "requirepass", "swordfish")
    finding = redis_finding(own_redis.url.replace("unix://", "unix://:swordfish@"))
    assert (finding.status, "swordfish" in str(finding)) == ("ok", False), finding
    assert redis_finding(own_redis.url).status == "missing"


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("echo Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", "missing", "6.0.16"),
        ("echo Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64", "ok", "Redis 6.2.14 ("),
        ("echo Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "ok", "Valkey 8.0.1 ("),
        ("exit 127", "missing", "does not run"),
    ],
)
def test_a_redis_server_on_the_path_is_asked_for_its_version(
    body: str, status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "redis-server", body)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    finding = redis_finding(None)
    assert (finding.status, words in finding.said) == (status, True), finding


@pytest.mark.parametrize("name", redis_binaries())
def test_the_servers_of_this_machine_can_be_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding names the binary, and the package that contains it."""
    binary = redis_binaries()[name]
    monkeypatch.setattr("council.doctor.machine_checks.find_server", lambda: binary)
    finding = redis_finding(None)
    assert (finding.status, binary in finding.said) == ("ok", True), finding
    assert (f"of the package {name}" in finding.said) is (name != "system")


def test_without_any_redis_the_three_ways_to_get_one_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("council.doctor.machine_checks.find_server", lambda: None)
    finding = redis_finding(None)
    assert (finding.status, finding.said) == ("missing", "No Redis server was found.")
    assert all(way in finding.advice for way in ("REDIS_URL", "redis-server", "pip"))


def test_a_free_port_stays_free() -> None:
    settings = Settings(port=free_port())
    assert port_finding(settings) == port_finding(settings)
    assert port_finding(settings).status == "ok"
    assert port_finding(Settings(port=0)).status == "ok"


@pytest.mark.parametrize(
    ("host", "words"), [("256.256.256.256", "not an address"), ("192.0.2.1", "not an address of this machine")]
)
def test_an_address_of_another_machine_is_missing(host: str, words: str) -> None:
    finding = port_finding(Settings(host=host))
    assert (finding.status, words in finding.said) == ("missing", True), finding
    assert finding.advice


def test_a_chosen_port_that_is_in_use_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the default port is in use, the finding is ok and names the next free port."""
    with black_hole() as hole:
        port = int(hole.rpartition(":")[2])
        finding = port_finding(Settings(port=port))
        assert (finding.status, finding.advice) == ("missing", "Choose another with --port, or with `make run PORT=…`.")
        settings = Settings()
        monkeypatch.setitem(settings.__dict__, "port", port)
        finding = port_finding(settings)
    assert finding.status == "ok", finding
    assert re.search(rf"Port {port} is in use on 127.0.0.1; `council up` uses port \d+", finding.said)


def test_a_council_that_listens_there_is_found(redis: RedisServer) -> None:
    server = WebServer(redis.url)
    try:
        wait_until(lambda: record_of(redis, server), "the page is served")
        finding = port_finding(Settings(port=int(server.address.rpartition(":")[2])))
    finally:
        server.close()
    assert finding.status == "ok", finding
    assert "A council already listens" in finding.said
    assert "mid tier, 0 models" in finding.said


def test_the_folder_of_the_socket_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary folder, or /tmp where its path is too long; a folder that does not exist is missing."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        for folder, where in ((Path(short), short), (tmp_path / ("d" * 100), "/tmp")):
            folder.mkdir(exist_ok=True)
            monkeypatch.setattr("tempfile.tempdir", str(folder))
            finding = folder_finding(None)
            assert (finding.status, f"opens its socket in {where}." in finding.said) == ("ok", True), finding
            assert list(folder.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")
    finding = folder_finding(None)
    assert (finding.status, "/no/such/folder" in finding.said) == ("missing", True), finding


def test_with_a_named_redis_the_folder_is_not_checked() -> None:
    assert folder_finding("redis://h/0").status == "ok"


# Memory


@given(st.sampled_from(list(TIERS)) | st.none(), st.integers(GIB, 256 * GIB), st.integers(0, 64 * GIB))
def test_a_tier_is_a_warning_if_and_only_if_a_lower_one_fits_the_memory(
    tier: str | None, total_bytes: int, limit_bytes: int
) -> None:
    settings = Settings(tier=tier)
    memory, finding = memory_findings(settings, MachineMemory(total_bytes, total_bytes, limit_bytes), ())
    order = ["low", "mid", "high"]
    fitting = order.index(tier_for_memory(limit_bytes or total_bytes).name)
    used = settings.tier_policy.name
    assert finding.status == ("warning" if order.index(used.replace("hybrid", "high")) > fitting else "ok")
    assert finding.said.startswith(f"The {used} tier")
    assert (order[fitting] in finding.advice) is (finding.status == "warning")
    assert memory.name == "Memory"


def test_memory_is_shown_with_cards_and_limits() -> None:
    memory = MachineMemory(32 * 10**9, 500 * 10**6, 8 * 10**9)
    finding, _ = memory_findings(Settings(), memory, [Card("NVIDIA X", 24 * 10**9, 23 * 10**9)])
    assert finding.said == (
        "32.0 GB in all, 0.5 GB available; this container may use 8.0 GB; NVIDIA X: 24.0 GB, 23.0 GB free."
    )
    assert finding.status == "warning"
    assert finding.advice


@given(st.text())
def test_any_text_is_read_as_nvidias_table_without_an_error(text: str) -> None:
    assert all(card.total_bytes >= 0 for card in nvidia_cards(text))


def test_nvidias_table_is_read() -> None:
    table = "NVIDIA GeForce RTX 4090, 24564, 23009\nTesla T4, 15360, [N/A]\nNVIDIA-SMI has failed\n"
    assert nvidia_cards(table) == (Card("NVIDIA GeForce RTX 4090", 24_564 << 20, 23_009 << 20),)


def test_amds_cards_are_read(tmp_path: Path) -> None:
    device = tmp_path / "card1" / "device"
    device.mkdir(parents=True)
    (device / "mem_info_vram_total").write_text("17163091968\n")
    (device / "mem_info_vram_used").write_text("27000832\n")
    (tmp_path / "card0" / "device").mkdir(parents=True)
    assert amd_cards(tmp_path) == (Card("AMD card1", 17_163_091_968, 17_136_091_136),)


# Model servers


async def test_an_ollama_is_shown_with_its_version_models_and_limits() -> None:
    models = [StoredModel(f"model{number}:latest") for number in range(5)]
    embedding = StoredModel("embed:latest", capabilities=("embedding",))
    async with ollama_server(*models, embedding) as server:
        found = by_name(await ollama_findings(Settings(tier="mid"), {"OLLAMA_HOST": server.url}))
    assert found["Ollama"].status == "ok"
    assert found["Ollama"].said.startswith(f"Ollama 0.12.11 at {server.url} offers 5 models (model")
    assert "embed" not in found["Ollama"].said
    assert found["Ollama"].advice.startswith("`council check ollama` tries")
    assert found["Ollama memory"].status == "warning"
    assert "keeps 3 models loaded at once" in found["Ollama memory"].said
    assert "OLLAMA_MAX_LOADED_MODELS" in found["Ollama memory"].advice
    assert "4" in found["Ollama memory"].advice
    assert found["Ollama requests"].status == "ok"
    assert "OLLAMA_NUM_PARALLEL" in found["Ollama requests"].advice


@pytest.mark.parametrize("pulled", [0, 1, 3, 4, 8])
@pytest.mark.parametrize("max_loaded", [1, 3, 4, 6])
@pytest.mark.parametrize("tier", ["low", "high"])
async def test_the_limit_is_a_warning_if_and_only_if_members_replace_each_other(
    pulled: int, max_loaded: int, tier: str
) -> None:
    async with ollama_server(*(StoredModel(f"m{number}:latest") for number in range(pulled))) as server:
        variables = {"OLLAMA_HOST": server.url, "OLLAMA_MAX_LOADED_MODELS": str(max_loaded)}
        found = by_name(await ollama_findings(Settings(tier=tier), variables))
    members = min(pulled, TIERS[tier].max_parallel_models)
    finding = found["Ollama memory"]
    assert finding.status == ("warning" if members > max_loaded else "ok")
    assert (f"OLLAMA_MAX_LOADED_MODELS={members}" in finding.advice) is (members > max_loaded)
    assert found["Ollama"].status == ("ok" if pulled else "warning")


async def test_an_old_ollama_is_a_warning() -> None:
    async with ollama_server(StoredModel("a:latest")) as server:
        server.version = "0.12.10"
        found = by_name(await ollama_findings(Settings(), {"OLLAMA_HOST": server.url}))
    assert found["Ollama"].status == "warning"
    assert "0.12.11" in found["Ollama"].advice


async def test_an_ollama_that_is_away_is_a_warning_only_without_other_servers() -> None:
    (finding,) = await ollama_findings(Settings(), {"OLLAMA_HOST": "127.0.0.1:1"})
    assert (finding.status, "ollama pull" in finding.advice) == ("warning", True)
    servers = {"a": {"url": "http://127.0.0.1:2"}}
    (finding,) = await ollama_findings(Settings(servers=servers), {"OLLAMA_HOST": "127.0.0.1:1"})
    assert (finding.status, finding.advice) == ("ok", "")
    (finding,) = await ollama_findings(Settings(ollama=False), {"OLLAMA_HOST": "127.0.0.1:1"})
    assert finding.status == "ok"
    servers = {"a": {"url": "http://127.0.0.1:1", "api": "ollama"}}
    assert await ollama_findings(Settings(servers=servers), {"OLLAMA_HOST": "127.0.0.1:1"}) == []


@pytest.mark.parametrize(
    ("platform", "has_unit", "words"),
    [
        ("darwin", None, ["`launchctl setenv OLLAMA_MAX_LOADED_MODELS 4`"]),
        ("linux", True, ["`sudo systemctl edit ollama.service`", 'Environment="OLLAMA_MAX_LOADED_MODELS=4"']),
        ("linux", False, ["`OLLAMA_MAX_LOADED_MODELS=4 ollama serve`", "systemctl edit ollama.service"]),
        ("freebsd14", None, ["`OLLAMA_MAX_LOADED_MODELS=4 ollama serve`"]),
    ],
)
def test_the_advice_for_a_setting_depends_on_the_system(platform: str, has_unit: bool | None, words: list[str]) -> None:
    said = how_to_set("OLLAMA_MAX_LOADED_MODELS", 4, platform, has_unit)
    assert [word for word in words if word not in said] == []


class ListingServer:
    """An OpenAI-compatible server that lists models, and records the keys that it receives."""

    def __init__(self, *models: str, key: str = "") -> None:
        self.models, self.key = models, key
        self.asked: list[str] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.headers.get("Authorization", ""))
        if self.key and self.asked[-1] != f"Bearer {self.key}":
            return web.json_response({"error": {"message": f"Incorrect API key: {self.asked[-1]}"}}, status=401)
        if request.path != "/v1/models":
            return web.Response(status=404)
        listed = [{"id": model, "object": "model", "owned_by": "me"} for model in self.models]
        return web.json_response({"object": "list", "data": listed})


@contextlib.asynccontextmanager
async def listing(*models: str, key: str = "") -> AsyncIterator[ListingServer]:
    state = ListingServer(*models, key=key)
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", state.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    state.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield state
    finally:
        await runner.cleanup()


async def checked(environ: dict[str, str] | None = None, *, allow_remote: bool = False, **server: object) -> Finding:
    settings = Settings(servers={"a": server}, allow_remote=allow_remote)
    finding, *_ = await server_findings("a", settings.servers["a"], settings, environ or {})
    assert finding.name == "Server a"
    assert finding.advice or finding.status == "ok"
    return finding


async def test_a_server_that_answers_is_shown_with_its_models() -> None:
    async with listing("qwen", "llama") as server:
        finding = await checked(url=server.url)
        assert (finding.status, finding.said) == ("ok", f"{server.url} offers 2 models (qwen, llama).")
        assert finding.advice == "`council check a` tries whether it continues an answer that a request begins."
        assert (await checked(url=server.url, models=["llama"])).said == f"{server.url} offers 1 model (llama)."
        finding = await checked(url=server.url, models=["qwen", "mistral"])
        assert (finding.status, "mistral" in finding.said) == ("missing", True)


async def test_a_server_without_models_is_a_warning() -> None:
    async with listing() as server:
        assert (await checked(url=server.url)).status == "warning"


async def test_a_server_that_is_away_is_missing() -> None:
    assert (await checked(url="http://127.0.0.1:1")).status == "missing"
    assert (await checked(url="http://127.0.0.1:1", api="ollama")).status == "missing"


async def test_a_server_without_its_key_is_not_asked() -> None:
    async with listing("m", key="open sesame") as server:
        finding = await checked(url=server.url, key_env="SERVER_KEY")
        assert (finding.status, server.asked) == ("missing", [])
        assert "export SERVER_KEY=" in finding.advice


@pytest.mark.parametrize("api", ["openai", "ollama"])
@pytest.mark.parametrize("key", ["open-sesame-4711\n", " ", "öffne-dich-4711"])
async def test_an_invalid_key_is_neither_sent_nor_shown(api: str, key: str) -> None:
    async with listing("m") as server:
        finding = await checked({"SERVER_KEY": key}, url=server.url, api=api, key_env="SERVER_KEY")
        assert (finding.status, server.asked) == ("missing", [])
        assert "4711" not in str(finding)


async def test_a_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the server quotes it."""
    async with listing("m", key="open-sesame-4711") as server:
        for key, status in (("open-sesame-4711", "ok"), ("close-sesame-0815", "missing")):
            monkeypatch.setenv("SERVER_KEY", key)
            finding = await checked({"SERVER_KEY": key}, url=server.url, key_env="SERVER_KEY")
            assert finding.status == status, finding
            assert key not in str(finding)
            assert server.asked[-1] == f"Bearer {key}"


async def test_a_remote_server_is_asked_only_where_that_is_allowed() -> None:
    async with listing("m") as server:
        finding = await checked(url=server.url, remote=True)
        assert (finding.status, server.asked) == ("warning", [])
        assert "allow_remote = true" in finding.advice
        assert (await checked(url=server.url, remote=True, allow_remote=True)).status == "ok"
        assert server.asked


async def test_a_configured_ollama_is_checked_with_its_own_limits() -> None:
    models = [StoredModel(f"m{number}:latest") for number in range(4)]
    async with ollama_server(*models) as ollama:
        server = {"url": ollama.url, "api": "ollama", "max_loaded": 2}
        settings = Settings(servers={"a": server}, tier="high")
        found = by_name(await server_findings("a", settings.servers["a"], settings, {}))
        assert "keeps 2 models" in found["Server a memory"].said
        assert found["Server a memory"].status == "warning"
        settings = Settings(servers={"a": server | {"models": ["m1", "m2:latest"]}}, tier="high")
        found = by_name(await server_findings("a", settings.servers["a"], settings, {}))
        assert [finding.status for finding in found.values()] == ["ok", "ok", "ok"]
        settings = Settings(servers={"a": server | {"models": ["m1", "gone"]}})
        found = by_name(await server_findings("a", settings.servers["a"], settings, {}))
        assert found["Server a"].status == "missing"
        assert "does not offer gone" in found["Server a"].said


async def test_a_host_that_does_not_exist_is_missing() -> None:
    finding = await checked(url="http://nowhere.invalid:1", remote=False)
    assert (finding.status, "The host name 'nowhere.invalid' is unknown" in finding.said) == ("missing", True), finding


# GGUF files


@needs_llama
def test_gguf_support_is_found_without_being_imported() -> None:
    loaded = "xllamacpp" in sys.modules
    (finding,) = gguf_findings(Settings())
    assert finding.status == "ok"
    assert ("xllamacpp" in sys.modules) is loaded


def test_without_llama_cpp_it_is_missing_only_where_a_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (finding,) = gguf_findings(Settings())
    assert (finding.status, "xllamacpp is not installed" in finding.said) == ("warning", True)
    assert "-m pip install xllamacpp, or serve the file with llama-server" in finding.advice
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\0\0\0")
    finding, file = gguf_findings(Settings(models=[f"gguf:{tmp_path}/m.gguf"]))
    assert (finding.status, file.status) == ("missing", "ok")


@pytest.mark.parametrize(
    ("data", "words"), [(None, "cannot be read"), (b"", "is not a GGUF file"), (b"PK\3\4", "is not a GGUF")]
)
def test_a_file_that_is_not_a_model_is_missing(data: bytes | None, words: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "m.gguf").write_bytes(data)
    *_, file = gguf_findings(Settings(models=[f"gguf:{tmp_path}/m.gguf", "ngram:word-3"]))
    assert (file.name, file.status, words in file.said) == ("GGUF m.gguf", "missing", True)
