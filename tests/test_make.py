"""`make run` and `make test` on a fresh machine: make with a stand-in for Python that only logs its arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")

# A real Python that reports another version, or lacks a module.
_DISGUISED = """#!/bin/sh
[ "$1" = -V ] && {{ echo Python {version}; exit; }}
exec {python} -c 'import sys
sys.version_info = tuple(map(int, "{version}".split(".")))
{extra}
exec(sys.argv[1])' "$2"
"""
_NO_VENV = 'sys.modules["ensurepip"] = None'


def disguised(folder: Path, name: str, version: str, extra: str = "") -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(_DISGUISED.format(version=version, python=sys.executable, extra=extra))
    path.chmod(0o755)


def check(folder: Path, python: str = "python3") -> tuple[int, str]:
    """(exit code, standard error) of the check, with only the programs in `folder` on the PATH."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["/bin/sh", ROOT / "check_python.sh", python],
        env={"PATH": str(folder)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) <= 1, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("version", ["3.11.0", "3.12.1", "3.13.0", "3.14.2"])
def test_a_suitable_python_passes_without_output(version: str, tmp_path: Path) -> None:
    disguised(tmp_path, "python3", version)
    assert check(tmp_path) == (0, "")


def test_an_unsuitable_python_is_refused_with_the_reason_and_what_to_do(tmp_path: Path) -> None:
    bare, old, lacking = tmp_path / "bare", tmp_path / "old", tmp_path / "lacking"
    disguised(old, "python3", "3.10.13")
    disguised(old, "python3.12", "3.12.1", _NO_VENV)
    disguised(lacking, "python3", "3.11.2", _NO_VENV)
    for folder, words in (
        (bare, ("python3 was not found", "Install one")),
        (old, ("python3 is Python 3.10.13", "Install one")),
        (lacking, ("python3 lacks the modules venv and ensurepip", "apt install python3-venv")),
    ):
        code, error = check(folder)
        assert (code, [word for word in words if word not in error]) == (1, []), error
    for folder in (bare, old, lacking):
        disguised(folder, "python3.11", "3.11.7")
        code, error = check(folder)
        assert (code, "Write `make run PYTHON=python3.11`." in error) == (1, True), error
        assert check(folder, "python3.11") == (0, "")


# Stand-ins for Python outside and inside of .venv, and for the council. The file `breaks` names the step that fails.
_OUTSIDE = """#!/bin/sh
[ "$1" = -c ] && exit {code}
[ "$1" = -V ] && {{ echo Python 3.10.13; exit; }}
echo "$@" >> log
rm -rf .venv && mkdir -p .venv/bin && cp inside .venv/bin/python && cp council .venv/bin/council
"""
_INSIDE = """#!/bin/sh
for word in "$@"; do last=$word; done
echo "pip $last" >> log
case "$(cat breaks):$last" in
  pip:.) exit 1 ;;
  llama:*llama*) exit 1 ;;
  killed:.) kill -9 $PPID ;;
esac
"""
_COUNCIL = """#!/bin/sh
echo "council $*" >> log
[ "$1 $(cat breaks)" != "models get" ]
"""

ANEW = ["-m venv --clear .venv", "pip ."]
MODEL = ["pip .[llama]", "council models get smollm2"]
UP = ["council up"]


class Folder:
    """The files of a checkout that make reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("Makefile", "check_python.sh"):
            shutil.copy(ROOT / name, path)
        for name in ("pyproject.toml", "constraints.txt", "breaks"):
            (path / name).touch()
        self.program("python", _OUTSIDE.format(code=0))
        self.program("old", _OUTSIDE.format(code=1))
        self.program("inside", _INSIDE)
        self.program("council", _COUNCIL)

    def program(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def change(self, name: str) -> None:
        """Makes the file newer than everything that make has created."""
        made = [path.stat().st_mtime for path in (self.path / ".venv").glob(".*")]
        os.utime(self.path / name, times=(max(made) + 1,) * 2)
        # What make creates next is newer still.
        for path in (self.path / ".venv").glob(".*"):
            os.utime(path, times=(path.stat().st_mtime - 10,) * 2)
        os.utime(self.path / name)

    def make(self, *words: str, breaks: str = "", python: str = "./python") -> tuple[int, list[str], str]:
        """(exit code, the commands that were run, standard error)."""
        (self.path / "breaks").write_text(breaks)
        log = self.path / "log"
        log.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            ["make", *words, f"PYTHON={python}"],
            cwd=self.path, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, log.read_text().splitlines() if log.exists() else [], done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_run_installs_once_and_starts(folder: Folder) -> None:
    assert folder.make("run")[:2] == (0, [*ANEW, *MODEL, *UP])
    assert folder.make("run", "PORT=9000")[:2] == (0, [MODEL[1], "council up --port 9000"])


def test_run_without_a_model_downloads_no_model(folder: Folder) -> None:
    assert folder.make("run", "MODEL=none")[:2] == (0, [*ANEW, *UP])
    assert folder.make("run")[:2] == (0, [*MODEL, *UP])


def test_run_continues_where_llama_or_the_model_cannot_be_installed(folder: Folder) -> None:
    code, run, error = folder.make("run", breaks="llama")
    assert (code, run) == (0, [*ANEW, MODEL[0], *UP])
    assert error == "council: llama.cpp could not be installed here; the council runs without it.\n"
    assert folder.make("run", breaks="get")[:2] == (0, [*MODEL, *UP])


def test_a_python_that_is_too_old_installs_nothing(folder: Folder) -> None:
    code, run, error = folder.make("run", python="./old")
    assert (code, run, "./old is Python 3.10.13" in error or "./old was not found" in error) == (2, [], True), error
    assert not (folder.path / ".venv").exists()


@pytest.mark.parametrize("how", ["pip", "killed"])
def test_a_broken_installation_is_repeated(how: str, folder: Folder) -> None:
    """Both the first installation, and one after a change."""
    code, run, _ = folder.make("run", breaks=how)
    assert (code != 0, run) == (True, ANEW)
    assert folder.make("run")[:2] == (0, [*ANEW, *MODEL, *UP])
    folder.change("pyproject.toml")
    assert folder.make("run", breaks=how)[1] == ["pip ."]
    assert folder.make("run")[:2] == (0, [*ANEW, *MODEL, *UP])


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_is_installed_into_the_existing_environment(name: str, folder: Folder) -> None:
    folder.make("run")
    folder.change(name)
    assert folder.make("run")[:2] == (0, ["pip .", *MODEL, *UP])


def test_an_environment_whose_python_is_gone_is_created_again(folder: Folder) -> None:
    folder.make("run")
    (folder.path / ".venv/bin/python").unlink()
    (folder.path / ".venv/bin/python").symlink_to("/no/such/python")
    assert folder.make("run")[:2] == (0, [*ANEW, *MODEL, *UP])
