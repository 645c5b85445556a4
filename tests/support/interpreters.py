"""The other Pythons of this machine, for a test of what must not depend on the version.

`python -m tests.support.interpreters` installs msgspec for each of them in a folder of the project; `make test` runs it
first. pip can install for another version: that Python needs neither pip nor a virtual environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.support.project import ROOT

_VERSIONS = ("3.11", "3.12", "3.13", "3.14")
_FOLDER = ROOT / ".pythons"


@cache
def other_pythons() -> dict[str, str]:
    """Each other version that the council runs on, with the interpreter that was found for it."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = ((version, _interpreter(version)) for version in _VERSIONS if version != here)
    return {version: path for version, path in found if path}


def _interpreter(version: str) -> str | None:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    installed = sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)
    for path in filter(None, [shutil.which(f"python{version}"), *installed]):
        # On the PATH there may be a shim of a version manager that has no such version.
        if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return str(path)
    return None


def libraries_of(version: str) -> Path:
    """The folder with that version's msgspec; it may be missing."""
    return _FOLDER / version


def missing_pythons() -> str:
    """Why the frames are not computed on every version, in one sentence; empty where they are."""
    found = other_pythons()
    if not found:
        return f"no other Python of {', '.join(_VERSIONS)} was found here"
    missing = [version for version in found if not libraries_of(version).is_dir()]
    command = "python -m tests.support.interpreters"
    return f"{', '.join(missing)} lacks msgspec: run `{command}`" if missing else ""


def main() -> None:
    for version in other_pythons():
        target = libraries_of(version)
        if target.is_dir():
            continue
        unfinished = target.with_name(f"{version}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        options = ["--python-version", version, "--only-binary", ":all:", "--no-deps", "--target", str(unfinished)]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *options]
        if subprocess.run([*command, "--constraint", str(ROOT / "constraints.txt"), "msgspec"]).returncode:
            sys.stderr.write(f"council: msgspec could not be installed for Python {version}; its test is left out.\n")
        else:
            unfinished.rename(target)


if __name__ == "__main__":
    main()
