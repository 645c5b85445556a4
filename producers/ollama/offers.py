"""What an Ollama server offers, under which limits, and where it is. Read at every start; an absent Ollama costs
milliseconds.

    OLLAMA_HOST --> URL --> /api/tags     the pulled models: names, sizes, digests
                        |-> /api/ps       which of them are in memory
                        |-> /api/show     what each can do, and the file of its weights
                        `-> /api/version  whether it has logprobs
    OLLAMA_MAX_LOADED_MODELS, OLLAMA_NUM_PARALLEL of the serving process --> limits, which the API does not report
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import msgspec

from producers.backend import BackendFailed, ServerAway
from producers.ollama.answers import NOT_DESCRIBED, PulledModel, Running, Shown
from producers.ollama.server import OllamaServer, UnansweredQuestion, canonical_name, is_cloud_name
from producers.servers.address import is_this_machine
from producers.servers.faults import ServerFault, one_line
from producers.source import ModelSource, Offer
from schemas.errors import Refused
from schemas.models import ModelFacts, Residency

# On this machine a connection is accepted or refused at once; half a second is for a local network.
PROBE_CONNECT_S = 0.5
# Newer versions of Ollama do not list the loaded models while they load one, which takes minutes.
PROBE_RUNNING_S = 1.0
# The models must be listed within this time, which a terminal's user waits.
LIST_S = 3.0
# For the descriptions of all models together: what is not there then is left out.
PROBE_SHOWN_S = 2.0
# Each request opens a file there; more at once would only wait for the disk.
SHOWN_AT_ONCE = 8
# The latest of them; a council has at most six members.
MAX_OFFERS = 200
DEFAULTS = ModelSource("ollama", "")
MAX_DETAILS_CHARS = 80
LOGPROBS_SINCE = (0, 12, 11)
# Ollama's defaults: for each GPU, and for a machine without one.
DEFAULT_MAX_LOADED = 3
DEFAULT_PARALLEL = 1
MAX_LOADED, _PARALLEL = "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_NUM_PARALLEL"


class ListTooSlow(BackendFailed):
    """The server answers, and does not list its models in time."""


class OllamaLimits(msgspec.Struct, frozen=True):
    """How many models that Ollama keeps in memory at once, how many requests each of them serves at once, and where
    these numbers come from: a phrase for a person."""

    max_loaded: int
    parallel: int
    known_from: str


def ollama_url(environ: Mapping[str, str]) -> str:
    """The URL in OLLAMA_HOST, read as Ollama reads it; an address to listen on becomes one to connect to.

    Raises Refused where it is not valid.
    """
    value = environ.get("OLLAMA_HOST", "").strip().strip("\"'")
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = ("https", "ollama.com:443") if value == "ollama.com" else ("http", value)
    default_port = {"https": 443, "http": 80}.get(scheme, 11434) if separator else 11434
    authority, slash, path = rest.partition("/")
    # A raw / in a password ends the authority: an @ behind it belongs to a login, too.
    if "@" in value:
        raise Refused(
            "bad_ollama_host",
            "OLLAMA_HOST contains a password, which other users of this machine could see: add that Ollama to "
            "council.toml instead, with its key in an environment variable (key_env).",
        )
    host, port = _host_and_port(authority, default_port)
    url = f"{scheme}://{host}:{port}{slash}{path}".rstrip("/")
    with contextlib.suppress(httpx.InvalidURL):
        if scheme in ("http", "https") and not re.search(r"\s", url) and httpx.URL(url).host:
            return url
    raise Refused("bad_ollama_host", "OLLAMA_HOST is not a valid address: give one like 127.0.0.1:11434.")


def _host_and_port(address: str, default_port: int) -> tuple[str, int]:
    host, colon, digits = address.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):  # no port: a name, or an IPv6 address as it is
        host, digits = address, ""
    port = int(digits) if re.fullmatch(r"[0-9]{1,5}", digits) and int(digits) < 65_536 else default_port
    host = host.strip("[]")
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(host)
        if ip.is_unspecified:
            ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
        host = f"[{ip}]" if ip.version == 6 else str(ip)
    return host or "127.0.0.1", port


def has_logprobs(version: str) -> bool:
    """False for an Ollama that ignores a request for logprobs. One that was built from source has version 0.0.0."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    numbers = tuple(int(digits) for digits in found.groups()) if found else (0, 0, 0)
    return numbers >= LOGPROBS_SINCE or numbers == (0, 0, 0)


def ollama_limits(url: str, environ: Mapping[str, str], proc: Path = Path("/proc")) -> OllamaLimits:
    """The limits of the Ollama at `url`: from its process where that is on this machine and readable, else from this
    process's environment, else Ollama's defaults."""
    is_here = is_this_machine(url)
    default = DEFAULT_MAX_LOADED * max(_gpus(proc) if is_here else 0, 1)
    serving = _serving_environ(url, proc) if is_here else None
    if serving is not None:
        return _limits(serving, default, "the Ollama process")
    if MAX_LOADED in environ or _PARALLEL in environ:
        return _limits(environ, default, "this environment")
    return _limits({}, default, "Ollama's defaults")


async def ollama_version(url: str) -> str:
    """Raises ServerAway, BackendFailed."""
    async with _probing(msgspec.structs.replace(DEFAULTS, url=url)) as server:
        return await server.version()


async def ollama_offers(
    url: str, defaults: ModelSource = DEFAULTS, environ: Mapping[str, str] = os.environ
) -> tuple[Offer, ...]:
    """The models of that Ollama, the latest first, with what each can do. `defaults` is their source without name and
    URL. Raises ServerAway, BackendFailed."""
    async with _probing(msgspec.structs.replace(defaults, url=url)) as server:
        try:
            async with asyncio.timeout(LIST_S):
                listed = (await server.listed())[:MAX_OFFERS]
        except TimeoutError as error:
            raise ListTooSlow(f"Ollama at {server.shown_url} did not list its models within {LIST_S:g} s") from error
        turns = asyncio.Semaphore(SHOWN_AT_ONCE)
        shows = (_shown(server, model.name, turns) for model in listed)
        version, running, shown = await asyncio.gather(_version(server), _running(server), asyncio.gather(*shows))
        limits = ollama_limits(url, environ)
        source = msgspec.structs.replace(defaults, url=url)
        loaded = {model.name for model in running} | {model.digest for model in running if model.digest}
    note = "" if has_logprobs(version) else f"no logprobs: Ollama {version} is older than 0.12.11"
    return tuple(
        _offer(model, one, source, server.shown_url, limits, not loaded.isdisjoint((model.name, model.digest)), note)
        for model, one in zip(listed, shown, strict=True)
    )


def known_limits(facts: ModelFacts, source: ModelSource, limits: OllamaLimits) -> ModelFacts:
    """The facts with the server's limits; the source's numbers have priority."""
    return msgspec.structs.replace(
        facts,
        max_loaded=source.max_loaded or limits.max_loaded,
        max_loaded_setting=MAX_LOADED,
        slots=max(1, source.parallel or limits.parallel),
        slots_setting=f"raise {_PARALLEL} for it and start it again",
    )


def known_facts(
    facts: ModelFacts, title: str, listed: PulledModel | None, shown: Shown, source: ModelSource
) -> ModelFacts:
    """The facts with what the server reports of the model; `title` names both in a sentence. A model that Ollama runs
    in a cloud is remote, whatever the source contains."""
    name = listed.name if listed else canonical_name(source.name)
    in_cloud = is_in_cloud(name, listed, shown)
    trouble = ""
    if in_cloud and not source.remote:
        host = shown.remote_host or (listed.remote_host if listed else "")
        trouble = f"{title} runs at {_cloud(host)}, so the prompt would leave this machine"
    elif shown.capabilities and "completion" not in shown.capabilities:
        trouble = f"{title} generates no text: it is for {', '.join(shown.capabilities)}"
    return msgspec.structs.replace(
        facts,
        model=name,
        size_bytes=listed.size if listed and not in_cloud else 0,
        digest=shown.weights or (listed.digest if listed else ""),
        remote=source.remote or in_cloud,
        max_loaded=0 if in_cloud else facts.max_loaded,
        trouble=trouble,
    )


def is_in_cloud(name: str, listed: PulledModel | None, shown: Shown) -> bool:
    """True where Ollama would send a prompt for this model on to another host."""
    return bool(shown.remote_host or (listed and listed.remote_host)) or is_cloud_name(name)


def _offer(
    listed: PulledModel,
    shown: Shown | ServerFault,
    source: ModelSource,
    server: str,
    limits: OllamaLimits,
    is_loaded: bool,
    note: str,
) -> Offer:
    described = shown if isinstance(shown, Shown) else NOT_DESCRIBED
    # A cloud's model may be offered: a user who chooses it must allow remote models.
    in_cloud = is_in_cloud(listed.name, listed, described)
    source = msgspec.structs.replace(source, name=listed.name, remote=source.remote or in_cloud)
    title = f"{listed.name} at {server}"
    facts = known_limits(ModelFacts(listed.name, server), source, limits)
    facts = known_facts(facts, title, listed, described, source)
    residency: Residency = "unmanaged" if in_cloud else "loaded" if is_loaded else "absent"
    facts = msgspec.structs.replace(facts, residency=residency)
    if isinstance(shown, ServerFault):
        facts = msgspec.structs.replace(facts, trouble=f"{title} {shown}")
    kind = listed.details
    details = one_line(f"{kind.family} {kind.parameter_size} {kind.quantization_level}", MAX_DETAILS_CHARS)
    return Offer(facts, source, described.capabilities, ", ".join(filter(None, (details, note))))


async def _shown(server: OllamaServer, model: str, turns: asyncio.Semaphore) -> Shown | ServerFault:
    """A fault instead of the description, so that a model with broken files does not hide the others. A server that
    describes none, or not soon, has usable models nevertheless."""
    try:
        async with asyncio.timeout(PROBE_SHOWN_S), turns:
            return await server.show(model)
    except (UnansweredQuestion, TimeoutError):
        return NOT_DESCRIBED
    except ServerFault as fault:
        return ServerFault(server.shown(str(fault)))


async def _version(server: OllamaServer) -> str:
    try:
        async with asyncio.timeout(PROBE_RUNNING_S):
            return await server.version()
    except (ServerFault, TimeoutError):
        return ""


async def _running(server: OllamaServer) -> tuple[Running, ...]:
    try:
        return await server.running(PROBE_RUNNING_S)
    except ServerFault:
        return ()


@contextlib.asynccontextmanager
async def _probing(source: ModelSource) -> AsyncIterator[OllamaServer]:
    try:
        server = OllamaServer(source, PROBE_CONNECT_S)
    except Refused as refusal:
        raise BackendFailed(str(refusal).removesuffix(".")) from refusal
    server.open(SHOWN_AT_ONCE)
    try:
        yield server
    except ServerFault as fault:
        kind = ServerAway if fault.is_away else BackendFailed
        raise kind(server.shown(f"Ollama at {server.shown_url} {fault}")) from fault
    finally:
        await server.close()


def _cloud(host: str) -> str:
    return host.partition("://")[2] or host or "Ollama's cloud"


def _limits(environ: Mapping[str, str], default_max_loaded: int, known_from: str) -> OllamaLimits:
    """As Ollama reads them: 0 and anything that is not a number mean the default."""
    return OllamaLimits(
        _number(environ, MAX_LOADED) or default_max_loaded, _number(environ, _PARALLEL) or DEFAULT_PARALLEL, known_from
    )


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "").strip().strip("\"'")
    return int(value) if value.isascii() and value.isdigit() else 0


def _gpus(proc: Path) -> int:
    """How many NVIDIA GPUs there are; machines with several others are rare."""
    try:
        return len(os.listdir(proc / "driver" / "nvidia" / "gpus"))
    except OSError:
        return 0


def _serving_environ(url: str, proc: Path) -> dict[str, str] | None:
    """The environment of the process that serves `url`, or of its runner, which has the same; None where it is not
    readable."""
    port = httpx.URL(url).port
    for folder in proc.glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if os.path.basename(command[0]) != b"ollama" or command[1:2] not in ([b"serve"], [b"runner"]):
                continue
            pairs = (folder / "environ").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:  # it has ended, or belongs to another user
            continue
        environ = dict(pair.partition("=")[::2] for pair in pairs if pair)
        with contextlib.suppress(Refused):
            if httpx.URL(ollama_url(environ)).port == port:
                return environ
    return None
