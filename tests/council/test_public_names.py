"""`council` exports what a user needs, and imports it when it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest
from mypy import api

import council
from tests.support.council_command import environment
from tests.support.project import ROOT

NAMES = {
    "CouncilError", "Effect", "EnsembleSession", "Frame", "MemberAnswer", "MemberAnswers", "MemberFrame", "MemberSpec",
    "Message", "Refused", "SessionRequest", "SetBack", "TurboEnsemble", "__version__", "ask", "frames",
}  # fmt: skip


def test_the_public_names_are_those_that_a_user_needs() -> None:
    assert set(council.__all__) == NAMES == set(dir(council))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_public_name_can_be_imported(name: str) -> None:
    found = getattr(council, name)
    assert found if name == "__version__" else isinstance(found, type | FunctionType)
    if name != "__version__":
        assert found.__name__ == name
        assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Ensemble'"):
        _ = council.Ensemble


def test_the_import_of_the_package_loads_no_other_room() -> None:
    code = "import sys, council; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name for name in done.stdout.split() if name.startswith("council.") or name in ("schemas", "msgspec")}
    assert loaded == set()


def test_the_public_names_have_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A type checker finds the classes, not Any."""
    program = tmp_path / "program.py"
    program.write_text(
        f"from council import {', '.join(sorted(NAMES - {'__version__'}))}\n"
        "def energy(frame: Frame) -> float:\n    return frame.energy\n"
        "async def answers() -> MemberAnswers:\n"
        "    return await ask('Hello', ['a', MemberSpec('b')], weights={'a': 2}, sync='free', tier='mid')\n"
        "async def energies(one: TurboEnsemble) -> list[float]:\n"
        "    return [frame.energy async for frame in one.generate_ensemble('Hello', seed=None)]\n"
        "async def text(member: MemberFrame) -> int:\n    return member.text\n"
        "async def wrong() -> str:\n    return (await ask('Hello', max_tokens='many'))['a'].text\n"
    )
    monkeypatch.chdir(ROOT)  # its cache makes this run short
    out, _, _ = api.run(["--strict", str(program)])
    text, wrong = [line for line in out.splitlines() if "error:" in line]
    assert 'got "str", expected "int"' in text, out
    assert '"max_tokens" to "ask" has incompatible type "str"; expected "int"' in wrong, out


def test_a_ctrl_c_while_a_command_loads_ends_it_without_a_message() -> None:
    """The signal arrives while council.command.cli is imported."""
    code = (
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'council.command.cli':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from council.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
