"""The checks of model servers: Ollama and its limits, the configured servers and their keys, GGUF files.

A server is asked for its list of models and nothing else. A remote server is asked only where the user has allowed
remote servers.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from council.doctor.findings import Finding, Status
from council.settings.own_address import own_address, own_address_trouble
from council.settings.schema import Settings
from council.settings.server import Server
from producers.backend import BackendFailed
from producers.source import Offer
from schemas.errors import CouncilError
from schemas.rules.tiers import TierPolicy

# The most names of models in a sentence.
_MOST_NAMES = 6
_GGUF = "gguf:"
# A shorter key could be an ordinary word of the sentence.
_SHORTEST_QUOTED_KEY = 8
# The systemd unit that Ollama's installer writes.
_UNIT_FILES = (Path("/etc/systemd/system/ollama.service"), Path("/usr/lib/systemd/system/ollama.service"))
_GET_OLLAMA = "Install Ollama from https://ollama.com and start it, then get a model: `ollama pull llama3.2:3b`"


async def ollama_findings(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """The default Ollama."""
    if not settings.ollama:
        return [Finding("Ollama", "ok", "Not checked: the setting ollama is false.")]
    from producers.ollama.offers import ollama_offers, ollama_url

    url = ollama_url(environ)
    if any(server.address == url for server in settings.servers.values()):
        return []  # it is checked as a configured server
    shown = _shown(url)
    try:
        _require_a_name(url)
        offers = await ollama_offers(url)
        return await _ollama_at("Ollama", url, offers, settings.tier_policy, environ)
    except (BackendFailed, CouncilError, OSError) as error:
        if settings.servers:
            return [Finding("Ollama", "ok", f"No Ollama answers at {shown}; the configured servers are used instead.")]
        return [
            Finding(
                "Ollama",
                "warning",
                f"{_sentence(error)} Without a model server, the model in the box or the n-gram council answers.",
                f"{_GET_OLLAMA}. Or add another server to council.toml; ollama = false switches this check off.",
            )
        ]


async def _ollama_at(
    name: str,
    url: str,
    offers: Sequence[Offer],
    tier: TierPolicy,
    environ: Mapping[str, str],
    own: Server | None = None,
) -> list[Finding]:
    """An Ollama that answers: its version, models and limits. `own` is its section of the settings, if it has one."""
    from producers.ollama.offers import has_logprobs, ollama_limits, ollama_version

    # The version is not read where a key is needed; the offers report missing logprobs as well.
    version = "" if own and own.key_env else await ollama_version(url)
    here = [offer for offer in offers if not offer.facts.trouble and not offer.facts.remote]
    names = [offer.facts.model for offer in here]
    said = f"{f'Ollama {version}'.rstrip()} at {_shown(url)} offers {_many(len(here))}{_named(names)}."
    found = Finding(name, "ok", *_continuing(said, here, name.removeprefix("Server ") if own else "ollama"))
    if not has_logprobs(version) or any("no logprobs" in offer.details for offer in here):
        said = f"{said} It reports no probabilities: certainty and diversity cannot be measured."
        found = Finding(name, "warning", said, "Install Ollama 0.12.11 or newer.")
    elif not here:
        found = Finding(name, "warning", said, "Get a model: `ollama pull llama3.2:3b`.")
    limits = ollama_limits(url, environ)
    max_loaded, parallel = limits.max_loaded, limits.parallel
    if own:
        max_loaded, parallel = own.max_loaded or max_loaded, own.parallel or parallel
    loads = _memory_finding(name, max_loaded, limits.known_from, min(tier.max_parallel_models, len(here)), tier.name)
    return [found, loads, _requests_finding(name, parallel, limits.known_from)]


def _continuing(said: str, offers: Sequence[Offer], server: str) -> tuple[str, str]:
    """(`said` with whether the models continue an answer, as far as it is known; how to find it out)."""
    known = {offer.facts.continues for offer in offers}
    if "untried" in known:
        return said, f"`council check {server}` tries whether it continues an answer that a request begins."
    return f"{said} It continues an answer that a request begins." if known == {"yes"} else said, ""


def _memory_finding(name: str, max_loaded: int, known_from: str, wanted: int, tier: str) -> Finding:
    said = f"It keeps {_many(max_loaded)} loaded at once (from {known_from})"
    if wanted <= max_loaded:
        return Finding(f"{name} memory", "ok", f"{said}.")
    said += f", but a session of the {tier} tier uses {wanted}: they would replace each other in memory."
    return Finding(f"{name} memory", "warning", said, how_to_set("OLLAMA_MAX_LOADED_MODELS", wanted))


def _requests_finding(name: str, parallel: int, known_from: str) -> Finding:
    """One session needs one request to each of its models at a time; with a limit of 1, a second session waits."""
    requests = f"{parallel} request{'s' if parallel > 1 else ''}"
    sessions = "one session at a time; a second one waits" if parallel < 2 else f"{parallel} sessions at a time"
    said = f"Each model answers {requests} at once (from {known_from}): {sessions}."
    advice = "" if parallel > 1 else f"For two at a time: {how_to_set('OLLAMA_NUM_PARALLEL', 2)}"
    return Finding(f"{name} requests", "ok", said, advice)


def how_to_set(variable: str, value: int, platform: str = sys.platform, has_unit: bool | None = None) -> str:
    """How to set a variable of Ollama's service; a variable of the shell has no effect on it."""
    if platform == "darwin":
        return f"`launchctl setenv {variable} {value}`, then quit Ollama and start it again."
    by_hand = f"`{variable}={value} ollama serve`"
    if platform != "linux":
        return f"Set the variable {variable} to {value} and start Ollama again: {by_hand}."
    service = (
        f'`sudo systemctl edit ollama.service`, write [Service] and below it Environment="{variable}={value}", then '
        "`sudo systemctl restart ollama`"
    )
    if has_unit is None:
        has_unit = any(path.exists() for path in _UNIT_FILES)
    return f"{service}." if has_unit else f"Stop Ollama and start it as {by_hand}; if it is a service: {service}."


async def server_findings(
    name: str, server: Server, settings: Settings, environ: Mapping[str, str] = os.environ
) -> list[Finding]:
    """A configured server: its key, whether it answers, and whether it has the models of its section."""
    from producers.openai.offers import CouncilRefused

    title = f"Server {name}"
    key = environ.get(server.key_env, "") if server.key_env else ""
    try:
        if loop := await own_address_trouble(server, own_address(settings)):
            return [Finding(title, "missing", f"{loop}.", f"Correct or remove [servers.{name}].")]
        if server.is_remote and not settings.allow_remote:
            return [_not_asked(title, server)]
        if server.key_env and not (key.isascii() and key.isprintable() and key.strip()):
            return [_without_key(title, server.key_env, "contains no valid key" if key else "is not set")]
        _require_a_name(server.address)
        found = await _answering(name, server, settings.tier_policy, environ)
    except CouncilRefused as refusal:
        found = [Finding(title, "missing", f"{refusal}.", f"Allow it in [servers.{name}], or remove that section.")]
    except (BackendFailed, CouncilError, OSError) as error:
        advice = f"Start the server, or correct or remove [servers.{name}]."
        found = [Finding(title, "missing", _sentence(error), advice)]
    return [msgspec.structs.replace(one, said=_cut(one.said, key)) for one in found]


def _cut(said: str, key: str) -> str:
    """The sentence without the key, which a server may quote when it refuses it."""
    return said.replace(key, "…") if len(key) >= _SHORTEST_QUOTED_KEY else said


def _without_key(title: str, variable: str, trouble: str) -> Finding:
    return Finding(
        title,
        "missing",
        f"The variable {variable} for its API key {trouble}; the server was not asked.",
        f"Set it in the shell that starts the council: `export {variable}=…`.",
    )


def _not_asked(title: str, server: Server) -> Finding:
    return Finding(
        title,
        "warning",
        f"{server.address} is remote and was not asked: remote servers are not allowed.",
        "To allow prompts to go there, set allow_remote = true and the hybrid tier. If the server is in your own "
        "network, set remote = false.",
    )


async def _answering(name: str, server: Server, tier: TierPolicy, environ: Mapping[str, str]) -> list[Finding]:
    """The findings of a configured server that is asked. Raises BackendFailed where it is away or denies access."""
    title, source = f"Server {name}", server.source("")
    if server.api == "ollama":
        from producers.ollama.offers import ollama_offers
        from producers.ollama.server import canonical_name

        wanted = {canonical_name(model): model for model in server.models}
        offers = await ollama_offers(server.address, source, environ)
        there = [offer.facts.model for offer in offers]
        lacks = [f"{server.address} does not offer {wanted[name]}" for name in wanted if name not in there]
        offers = tuple(offer for offer in offers if not wanted or offer.facts.model in wanted)
        found, *further = await _ollama_at(title, server.address, offers, tier, environ, server)
    else:
        from producers.openai.offers import openai_offers

        offers = await openai_offers(name, source, tuple(server.models))
        there = [offer.facts.model for offer in offers if not offer.facts.trouble]
        lacks = [offer.facts.trouble for offer in offers if offer.facts.trouble]
        said = f"{server.address} offers {_many(len(there))}{_named(there)}."
        found = Finding(title, "ok", *_continuing(said, offers, name))
        further = []
        if not there:
            found = Finding(title, "warning", found.said, "Load a model on that server.")
    if lacks:
        advice = f"Load it there, or correct `models` in [servers.{name}]."
        found = Finding(title, "missing", f"{'; '.join(lacks[:_MOST_NAMES])}.", advice)
    return [found, *further]


def gguf_findings(settings: Settings) -> list[Finding]:
    """Whether the council can load GGUF files, and whether the files of the settings exist."""
    paths = [model.removeprefix(_GGUF) for model in settings.models or () if model.startswith(_GGUF)]
    return [_gguf_support(is_needed=bool(paths)), *(_gguf_file(path) for path in paths)]


def _gguf_support(*, is_needed: bool) -> Finding:
    from producers.llama.backend import llama_trouble

    if trouble := llama_trouble():
        problem, _, advice = trouble.partition(": ")
        status: Status = "missing" if is_needed else "warning"
        return Finding(
            "GGUF files",
            status,
            f"They cannot be loaded. {problem}.",
            f"{advice[:1].upper()}{advice[1:].rstrip('.')}, or serve the file with llama-server or Ollama.",
        )
    try:
        version = f" {importlib.metadata.version('xllamacpp')}"
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return Finding("GGUF files", "ok", f"xllamacpp{version} is installed: `--models gguf:PATH` loads a file.")


def _gguf_file(path: str) -> Finding:
    name = f"GGUF {Path(path).name}"
    try:
        with open(Path(path).expanduser(), "rb") as file:
            begins = file.read(4)
    except (OSError, RuntimeError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "no such path"
        return Finding(name, "missing", f"{path} cannot be read ({problem}).", "Correct its path in `models`.")
    if begins != b"GGUF":
        return Finding(name, "missing", f"{path} is not a GGUF file.", "Name a model's .gguf file.")
    return Finding(name, "ok", f"{path} is a GGUF file.")


def _require_a_name(url: str) -> None:
    """Raises OSError where the host has no address. Resolved in this thread, which is abandoned if it hangs."""
    parts = urlsplit(url)
    try:
        socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError, ValueError):
        raise OSError(f"The host name {parts.hostname!r} is unknown in this network") from None


def _shown(url: str) -> str:
    """The URL without a user name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _sentence(error: Exception) -> str:
    said = str(error).rstrip(".")
    return said if said.endswith("?") else f"{said}."


def _many(count: int) -> str:
    return "no model" if count == 0 else f"{count} model{'s' if count > 1 else ''}"


def _named(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > _MOST_NAMES else ""
    return f" ({', '.join(names[:_MOST_NAMES])}{more})"
