"""The test suite on machines with other Redis servers than this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from council.running.keeper import NO_SERVER
from tests.support.council_command import environment
from tests.support.project import ROOT
from tests.support.redis_servers import redis_binaries, server_version

# Loaded before anything imports the two names.
_NO_PACKAGES = "from council.running import keeper\nkeeper.bundled_servers = lambda: {}\n"


def suite_without_packages(folder: Path, binary: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a test that needs Redis where no package contains a server, and `binary` is the only program on the PATH."""
    (folder / "no_packages.py").write_text(_NO_PACKAGES)
    (folder / "bin").mkdir()
    if binary:
        (folder / "bin" / Path(binary).name).symlink_to(binary)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no_packages", "-p", "no:cacheprovider"]
    variables = environment(PATH=str(folder / "bin"), PYTHONPATH=str(folder))
    return subprocess.run(
        [*command, "tests/transport/redis/test_pipe.py"],
        cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("product", ["Redis", "Valkey"])
def test_one_server_of_any_kind_is_enough_and_the_run_names_it(tmp_path: Path, product: str) -> None:
    found = [path for path in redis_binaries().values() if server_version(path).startswith(product)]
    if not found:
        pytest.skip(f"there is no {product} here")
    done = suite_without_packages(tmp_path, found[0])
    assert done.returncode == 0, done.stdout + done.stderr
    shown = f"redis: {server_version(found[0])} (system: {tmp_path / 'bin' / Path(found[0]).name})"
    assert [line for line in done.stdout.splitlines() if line.startswith("redis: ")] == [shown]


def test_without_a_server_the_failure_names_the_ways_to_get_one(tmp_path: Path) -> None:
    done = suite_without_packages(tmp_path)
    assert done.returncode == 1
    assert NO_SERVER in done.stdout


def collected(server: str) -> subprocess.CompletedProcess[str]:
    """Collects tests that run on each server, with the option --redis."""
    words = ["-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--collect-only", "--redis", server]
    return subprocess.run(
        [sys.executable, *words, "tests/transport/test_residency.py"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_option_redis_names_the_server_of_all_tests() -> None:
    chosen, *others = redis_binaries()
    done = collected(chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"[{chosen}" in done.stdout
    assert [name for name in others if name in done.stdout] == []
    refused = collected("nonsense")
    assert refused.returncode != 0
    assert "--redis nonsense: it is no file, no image, and not one of" in refused.stdout + refused.stderr
