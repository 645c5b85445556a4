"""Where a model server is: its URL, whether that is on this machine or its network, and the credentials for it."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket

import httpx

from producers.servers.api_key import ApiKey
from producers.source import ModelSource
from schemas.errors import Refused

_NEARBY = (
    "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "::/128", "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip
# 100.64.0.0/10 and .ts.net are the addresses and names of a Tailscale network.
_NETWORKS = tuple(ipaddress.ip_network(network) for network in _NEARBY)
_NEARBY_ENDINGS = (".local", ".lan", ".internal", ".home.arpa", ".localhost", ".ts.net")
# The endpoints that people paste in place of a server's address.
_PASTED = re.compile(
    r"(?:/chat/completions|/completions|/embeddings|/responses|/models(?:/[^/]+)?"
    r"|/api/(?:chat|generate|tags|show|ps|version|embed|embeddings|pull))$"
)
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def is_remote(url: str) -> bool:
    """True unless the address shows that the server is on this machine or its network. Uses no name server."""
    try:
        # Requests go to the host that httpx finds in the URL.
        host = httpx.URL(url.strip()).raw_host.decode("ascii").lower()
    except (httpx.InvalidURL, UnicodeDecodeError):
        return True
    if address := _address(host):
        return not any(address in network for network in _NETWORKS if network.version == address.version)
    if not _HOST.fullmatch(host):
        return True
    return "." in host and not host.endswith(_NEARBY_ENDINGS)


def is_this_machine(url: str) -> bool:
    """True for a loopback address, and for localhost and names below it."""
    host = httpx.URL(url).host
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def server_url(model: str, base_url: str) -> httpx.URL:
    """`base_url`, which may contain credentials. Raises Refused, without them, where it is not a server's URL."""
    # A password with a raw @ / ? or # would be taken for a host, and its rest be shown.
    _, _, rest = base_url.partition("://")
    with contextlib.suppress(httpx.InvalidURL):
        url = httpx.URL(base_url.strip())
        is_server = url.scheme in ("http", "https") and url.host and (url.port is None or 0 < url.port < 65_536)
        if is_server and not any("@" in tail for tail in re.split("[@/?#]", rest, maxsplit=1)[1:]):
            return url
    raise Refused(
        "bad_backend", f"The URL of the server of {model!r} is not valid: give one like http://127.0.0.1:8080."
    )


def server_address(model: str, source: ModelSource) -> tuple[httpx.URL, httpx.Auth | None]:
    """(the server's address without its API's path and without credentials, the credentials). Raises Refused, with no
    secret in it, for a URL that is not valid, and for a key that is missing or would be sent unencrypted."""
    url, base = server_url(model, source.url), base_address(model, source)
    if not source.key_env:
        named = url.username or url.password
        return base, httpx.BasicAuth(url.username, url.password) if named else None
    if url.username or url.password:
        raise Refused(
            "two_credentials",
            f"{base} has credentials in its URL and a key in {source.key_env}: remove one of the two.",
        )
    if source.remote and url.scheme == "http":
        raise Refused(
            "key_in_the_clear",
            f"The key in {source.key_env} would be sent to {base} unencrypted: use https; for a server in your own "
            "network, set remote = false.",
        )
    return base, ApiKey(source.key_env)


def base_address(model: str, source: ModelSource) -> httpx.URL:
    """The server's address without its API's path and without credentials. Raises Refused."""
    url = server_url(model, source.url)
    return below(url, _without_api(_path(url), source.api))


def api_roots(model: str, source: ModelSource) -> tuple[httpx.URL, ...]:
    """Where an OpenAI-compatible API may begin: at the URL as it was given; without a path at /v1, else at the server
    itself. Without credentials. Raises Refused."""
    url = server_url(model, source.url)
    path = _path(url)
    return tuple(below(url, root) for root in ([path] if path else ["/v1", ""]))


def below(url: httpx.URL, path: str) -> httpx.URL:
    """The address of `path` on the URL's server; without credentials."""
    return url.copy_with(username="", password="", raw_path=path.encode() or b"/", fragment=None)


def at_path(root: httpx.URL, path: str) -> httpx.URL:
    """The address of `path` below `root`."""
    return below(root, f"{_path(root)}{path}")


def _path(url: httpx.URL) -> str:
    """The path, percent-encoded as it was given, without a pasted endpoint and without a slash at its end."""
    path = re.sub("/{2,}", "/", url.raw_path.partition(b"?")[0].decode("ascii", "replace")).rstrip("/")
    return _PASTED.sub("", path)


def _without_api(path: str, api: str) -> str:
    return path.removesuffix("/v1").removesuffix("/api") if api == "ollama" else path.removesuffix("/v1")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The host as an address, in whatever form it is written: 127.1 and 2130706433 are 127.0.0.1 as well."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
    with contextlib.suppress(OSError):
        return ipaddress.IPv4Address(socket.inet_aton(host))
    return None
