"""The repository tests itself: its rooms, its promises in the README, its links, its bounds."""

from __future__ import annotations

import ast
import gc
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from schemas.errors import CouncilError
from tests.support.council_command import council
from tests.support.project import ROOT
from transport.redis.scripts import SCRIPTS

ROOMS = ("schemas", "recordings", "transport", "runtime", "producers", "aggregator", "consumers", "council")


def _sources() -> list[Path]:
    return [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]


def _parsed(path: Path) -> ast.Module:
    """The syntax tree. A garbage collection that calls hypothesis back breaks Python 3.11 here, so none happens."""
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


def test_a_class_name_means_one_thing() -> None:
    found: dict[str, list[str]] = {}
    for path in [*_sources(), *(ROOT / "bench").rglob("*.py")]:
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert len(found) > 300
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_no_room_and_no_benchmark_imports_the_tests() -> None:
    """Nor pytest, which a machine that runs the council or its benchmarks does not need."""
    found = []
    for path in [*_sources(), *(ROOT / "bench").rglob("*.py")]:
        for node in ast.walk(_parsed(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [
                f"{path.relative_to(ROOT)}: {name}" for name in names if name.partition(".")[0] in ("tests", "pytest")
            ]
    assert found == []


def test_files_fit_in_a_head() -> None:
    files = [*_sources(), *(ROOT / "bench").rglob("*.py"), *(ROOT / "consumers/web/static").rglob("*.*s")]
    assert any(path.suffix == ".js" for path in files)
    long = {str(path.relative_to(ROOT)): n for path in files if (n := len(path.read_text().splitlines())) > 330}
    assert long == {}


def test_every_module_and_public_name_says_what_holds() -> None:
    silent = []
    for path in _sources():
        tree = _parsed(path)
        nodes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        silent += [
            f"{path.relative_to(ROOT)}: {getattr(n, 'name', '')}" for n in (tree, *nodes) if not ast.get_docstring(n)
        ]
    assert silent == []


def test_the_readme_begins_with_exactly_two_commands() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:24])
    assert re.findall(r"^ {4}(\S.*?)\s*(?:#.*)?$", first_screen.partition("\n## ")[0], re.M) == [
        "make run",
        "make test",
    ]


def test_the_readme_names_commands_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    help_text = council("--help").out
    for command in set(re.findall(r"^ {4}council (\w+)", readme, re.M)) | {"stop", "status"}:
        assert re.search(rf"^ +{command} ", help_text, re.M), command
    for module in re.findall(r"python -m ([\w.]+)", readme):
        assert (ROOT / module.replace(".", "/") / "__main__.py").exists(), module


def test_the_readmes_python_is_six_lines_that_run(tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block
    body = [
        line
        for line in block[1].splitlines()
        if line.strip() and not line.startswith(("import", "from", "asyncio.run"))
    ]
    assert len(body) <= 6
    import sys

    from tests.support.council_command import environment

    variables = environment(TMPDIR=str(tmp_path), COUNCIL_NGRAM_TOKENS_PER_S="400", COUNCIL_LIMITS='{"life_ms": 3000}')
    done = subprocess.run(
        [sys.executable, "-c", block[1]], env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 10


def test_links_in_the_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_wheel_holds_every_room() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(ROOMS)


def test_every_script_says_what_it_takes() -> None:
    for script in SCRIPTS.values():
        assert b"KEYS" in script.source.split(b"\n\n")[0]
    names = {path.stem for path in (ROOT / "transport/lua").glob("*.lua")}
    assert len(names) == len(SCRIPTS)


def test_the_error_tree_is_drawn_as_it_is() -> None:
    from schemas import errors

    def all_below(kind: type) -> set[str]:
        return {name for child in kind.__subclasses__() for name in {child.__name__} | all_below(child)}

    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    assert drawn == {name for name in all_below(CouncilError) if hasattr(errors, name)}


@pytest.mark.skipif(
    not (shutil.which("git") and (ROOT / ".git").exists()), reason="the tracked files are known in a git checkout"
)
def test_nothing_in_the_repository_names_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    pattern = re.compile(r"/(?:wo" + r"rk|ro" + r"ot|home/\w+)/|https?://[^ )]*/sim" + r"ple")
    found = [
        name for name in tracked if (ROOT / name).suffix in {".py", ".md", ".toml", ".txt", ".lua", ".js", ".yaml", ""}
    ]
    assert [
        name for name in found if (ROOT / name).is_file() and pattern.search((ROOT / name).read_text(errors="replace"))
    ] == []
