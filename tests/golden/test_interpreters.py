"""Frames are the same bytes on every Python that the council runs on."""

from __future__ import annotations

import os
import subprocess
from functools import cache

import msgspec
import pytest

from tests.golden import golden_sessions
from tests.golden.digests import digests
from tests.support.interpreters import libraries_of, missing_pythons, other_pythons
from tests.support.project import ROOT


@cache
def digests_here() -> dict[str, str]:
    return digests(golden_sessions())


@pytest.mark.skipif(not other_pythons(), reason=missing_pythons())
@pytest.mark.parametrize("version", other_pythons())
def test_every_python_computes_the_same_frames(version: str) -> None:
    """The core of this folder in another interpreter, with msgspec and nothing else."""
    libraries = libraries_of(version)
    if not libraries.is_dir():
        pytest.skip(missing_pythons())
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{libraries}", "PYTHONDONTWRITEBYTECODE": "1"}
    # -P: the script's own folder, which has modules named like packages, is not searched.
    done = subprocess.run(
        [other_pythons()[version], "-P", str(ROOT / "tests/golden/digests.py")],
        input=msgspec.msgpack.encode(golden_sessions()), env=environment, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert msgspec.json.decode(done.stdout) == digests_here()
