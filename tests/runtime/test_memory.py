"""What this process may use is the least of the machine's memory and of every control group's limit around it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from council.doctor.machine_checks import memory_findings
from council.settings.schema import Settings
from runtime.environment import tier_from_environment
from runtime.memory import MachineMemory, read_memory

GB = 10**9
TOTAL, AVAILABLE = 64 * GB, 40 * GB
NO_LIMIT_V1 = "9223372036854771712"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the /proc of a machine of 64 GB, of which 40 GB are available."""
    (tmp_path / "proc/self").mkdir(parents=True)
    meminfo = {"MemTotal": TOTAL, "MemFree": 2 * GB, "MemAvailable": AVAILABLE, "Buffers": 0, "Cached": 30 * GB}
    meminfo |= dict.fromkeys(("Active", "Inactive", "Shmem", "SReclaimable", "Slab"), 0)
    (tmp_path / "proc/meminfo").write_text("".join(f"{name}: {n // 1024:>12} kB\n" for name, n in meminfo.items()))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    return tmp_path


def _write_v2(folder: Path, limit: int | str, used: int = 0, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used}\nactive_file {cache}\ninactive_file 0\n")


def _write_v1(folder: Path, limit: int | str, used: int = 0, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    # The names without total_ count the group alone, without the groups in it.
    (folder / "memory.stat").write_text(f"active_file 7\ninactive_file 7\ntotal_active_file {cache}\n")


def _write_groups(root: Path, text: str) -> Path:
    (root / "proc/self/cgroup").write_text(text)
    return root / "sys/fs/cgroup"


def _near(memory: MachineMemory) -> tuple[int, int, int]:
    """Rounded to MB: meminfo counts in units of 1,024 bytes."""
    total, available, limit = (round(n / 1e6) * 10**6 for n in memory)
    return total, available, limit


def test_without_control_groups_all_memory_counts(root: Path) -> None:
    """As on macOS, which has neither the file in /proc nor the folders in /sys."""
    memory = read_memory(root)
    assert _near(memory) == (TOTAL, AVAILABLE, 0)
    assert memory.usable_bytes == memory.total_bytes


def test_the_least_limit_of_nested_groups_of_version_2_counts(root: Path) -> None:
    groups = _write_groups(root, "0::/user.slice/app.slice/council.scope\n")
    _write_v2(groups / "user.slice/app.slice/council.scope", "max", GB)
    _write_v2(groups / "user.slice/app.slice", 8 * GB, 3 * GB, GB)
    _write_v2(groups / "user.slice", 16 * GB, 4 * GB)
    assert _near(read_memory(root)) == (TOTAL, 8 * GB - 3 * GB + GB, 8 * GB)
    assert read_memory(root).usable_bytes == 8 * GB


def test_the_group_with_the_largest_limit_may_have_the_least_available(root: Path) -> None:
    groups = _write_groups(root, "0::/outer/inner\n")
    _write_v2(groups / "outer", 16 * GB, 15 * GB)
    _write_v2(groups / "outer/inner", 8 * GB, GB)
    assert _near(read_memory(root)) == (TOTAL, GB, 8 * GB)


def test_the_least_limit_of_nested_groups_of_version_1_counts(root: Path) -> None:
    groups = _write_groups(root, "9:name=systemd:/x\n4:hugetlb,memory:/docker/abc\n1:cpu:/docker/abc\n")
    _write_v1(groups / "memory", NO_LIMIT_V1)
    _write_v1(groups / "memory/docker", 8 * GB, 5 * GB, 2 * GB)
    _write_v1(groups / "memory/docker/abc", 12 * GB, GB)
    assert _near(read_memory(root)) == (TOTAL, 8 * GB - 5 * GB + 2 * GB, 8 * GB)


@pytest.mark.parametrize("path", ["/docker/abc", "/", "/../../system.slice"])
def test_a_container_reads_its_limit_at_the_mount_whatever_path_the_host_has(root: Path, path: str) -> None:
    groups = _write_groups(root, f"0::{path}\n")
    _write_v2(groups, 4 * GB, GB)
    assert _near(read_memory(root)) == (TOTAL, 3 * GB, 4 * GB)
    groups = _write_groups(root, f"3:memory:{path}\n0::{path}\n")
    (groups / "memory.max").unlink()
    _write_v1(groups / "memory", 2 * GB, GB)
    assert _near(read_memory(root)) == (TOTAL, GB, 2 * GB)


@pytest.mark.parametrize("limit", ["max", str(TOTAL * 2), "", "a lot", "²", "-5"])
def test_a_limit_that_is_no_smaller_number_is_no_limit(root: Path, limit: str) -> None:
    _write_v2(_write_groups(root, "0::/\n"), limit, GB)
    assert _near(read_memory(root)) == (TOTAL, AVAILABLE, 0)


def test_a_group_over_its_limit_has_nothing_available(root: Path) -> None:
    _write_v2(_write_groups(root, "0::/\n"), 2 * GB, 3 * GB)
    assert read_memory(root).available_bytes == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.text())
def test_any_text_in_these_files_is_read_without_an_error(root: Path, groups: str, content: str) -> None:
    _write_v2(_write_groups(root, groups), content)
    memory = read_memory(root)
    assert 0 <= memory.available_bytes <= memory.total_bytes


def test_this_machine_has_as_much_memory_as_the_system_reports() -> None:
    memory = read_memory()
    assert memory.total_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.available_bytes <= memory.total_bytes
    assert 0 <= memory.limit_bytes < memory.total_bytes


def test_the_tier_is_the_same_for_the_settings_the_web_and_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container of 8 GB on a machine of 64 GB: all of them choose by the 8 GB."""
    memory = MachineMemory(TOTAL, 6 * GB, 8 * GB)
    for room in ("runtime.environment", "council.settings.schema"):
        monkeypatch.setattr(f"{room}.read_memory", lambda: memory)
    monkeypatch.delenv("COUNCIL_TIER", raising=False)
    assert tier_from_environment().name == "low"
    assert Settings().tier_policy.name == "low"
    _, tier = memory_findings(Settings(), memory, ())
    assert (tier.status, tier.said.partition(" (")[0]) == ("ok", "The low tier")
