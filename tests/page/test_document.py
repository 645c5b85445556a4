"""The pictures of docs/page.md are those that the script takes."""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.council_command import environment
from tests.support.project import ROOT

DOCS = ROOT / "docs"
SCRIPT = DOCS / "page_pictures.py"
MOST_BYTES = 400_000


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_page_md_shows_every_picture_that_the_script_takes() -> None:
    spec = importlib.util.spec_from_file_location("page_pictures", SCRIPT)
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    shown = re.findall(r"!\[[^\]]+\]\(page/(\w+)\.png\)", (DOCS / "page.md").read_text())
    assert sorted(shown) == sorted(script.PICTURES)
    for name, picture in script.PICTURES.items():
        png = (DOCS / "page" / f"{name}.png").read_bytes()
        assert size_of(png) == picture.size
        assert len(png) < MOST_BYTES


@pytest.mark.real
def test_the_script_takes_a_picture(tmp_path: Path, smollm2: Path) -> None:
    cache = str(smollm2.parents[2])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "telephone"],
        env=environment(PYTHONPATH=str(DOCS.parent), XDG_CACHE_HOME=cache), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert size_of((tmp_path / "telephone.png").read_bytes()) == (360, 780)
