"""The repository checks itself: names, sizes, documents, links, the wheel, the image."""

from __future__ import annotations

import ast
import gc
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from schemas.errors import CouncilError
from tests.support.council_command import council
from tests.support.project import ROOMS, ROOT
from transport.redis.scripts import SCRIPTS

# Folders of tests that are named for their content, not for a room of the code.
TESTS_OF_NO_ROOM = {"support", "containers", "oracle", "golden", "chaos", "page", "real", "docs"}
# Names that do not describe the content of a module.
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


needs_git = pytest.mark.skipif(
    not (shutil.which("git") and (ROOT / ".git").exists()), reason="only a git checkout knows which files are tracked"
)


def _sources() -> list[Path]:
    return [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]


def _parsed(path: Path) -> ast.Module:
    """The syntax tree. Without garbage collection, whose callback by hypothesis breaks Python 3.11 here."""
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


def _imports(path: Path) -> set[str]:
    """The modules that a file imports, by their full names."""
    found = set[str]()
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def _messages(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, text) of each string of a module but its docstrings; {} stands for what an f-string inserts."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found, parts = list[tuple[int, str]](), set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(part) for part in node.values}
            texts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            found.append((node.lineno, "".join(map(str, texts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | parts:
            found.append((node.lineno, node.value))
    return found


def test_each_class_name_is_defined_once() -> None:
    found: dict[str, list[str]] = {}
    for path in [*_sources(), *(ROOT / "bench").rglob("*.py")]:
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert len(found) > 300
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_the_name_of_a_file_describes_its_content() -> None:
    files = [*_sources(), *(ROOT / "bench").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    names = {str(path.relative_to(ROOT)): path.stem for path in files if not path.stem.startswith("__")}
    assert {path for path, name in names.items() if not re.fullmatch(r"[a-z][a-z0-9_]*", name)} == set()
    assert {path for path, name in names.items() if EMPTY_NAMES & set(name.split("_"))} == set()


def test_each_folder_of_tests_has_the_name_of_a_room() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")} - {Path()}
    mirrored = {folder for folder in folders if folder.parts[0] not in TESTS_OF_NO_ROOM}
    assert len(mirrored) > 20
    assert {str(folder) for folder in mirrored if not (ROOT / folder / "__init__.py").exists()} == set()


def test_the_rooms_and_the_benchmarks_import_no_test_and_no_pytest() -> None:
    files = [*_sources(), *(ROOT / "bench").rglob("*.py")]
    assert len(files) > 300
    found = {str(path.relative_to(ROOT)): {name.split(".")[0] for name in _imports(path)} for path in files}
    assert {path for path, names in found.items() if names & {"tests", "pytest"}} == set()


def test_one_module_writes_logs_and_transport_writes_none() -> None:
    """The roles log through runtime/log.py. transport/ raises errors, and its callers log them."""
    assert {path for path in _sources() if "structlog" in _imports(path)} == {ROOT / "runtime/log.py"}
    used = {name.split(".")[0] for path in (ROOT / "transport").rglob("*.py") for name in _imports(path)}
    assert used & {"logging", "structlog", "runtime"} == set()


def test_texts_avoid_the_words_that_plain_english_replaces() -> None:
    """Texts use "must" for "shall", and name the client, the process or the user for "whoever" and "somebody"."""
    kinds = (".py", ".lua", ".js", ".html", ".css")
    files = [path for room in (*ROOMS, "bench") for path in (ROOT / room).rglob("*") if path.suffix in kinds]
    files += [ROOT / name for name in ("Makefile", "compose.yaml", "Dockerfile", "check_python.sh", "pyproject.toml")]
    files += [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.py")]
    odd = re.compile(r"\b(?:shall|whoever|somebody)\b", re.I)
    assert len(files) > 300
    assert {str(path.relative_to(ROOT)): found for path in files if (found := odd.findall(path.read_text()))} == {}


ODD_NEGATION = re.compile(r"(?<!\bthere )\b(?:is|are) (?:none\b|no (?!longer\b|more\b)\w)", re.I)


@pytest.mark.parametrize("text", ["Message 2 is none", "{} is no model", "these are no lists"])
def test_an_odd_negation_is_found(text: str) -> None:
    assert ODD_NEGATION.search(text)


@pytest.mark.parametrize("text", ["There is no model", "there are none", "It is no longer there", "{} is not a model"])
def test_a_plain_negation_is_allowed(text: str) -> None:
    assert not ODD_NEGATION.search(text)


def test_messages_have_plain_negations() -> None:
    """ "X is not a valid model" instead of "X is no model" and "X is none". "There is no model" is allowed."""
    found = {
        f"{path.relative_to(ROOT)}:{line}": text
        for path in _sources()
        for line, text in _messages(_parsed(path))
        if ODD_NEGATION.search(text)
    }
    assert found == {}


def test_a_file_has_at_most_330_lines() -> None:
    files = [*_sources(), *(ROOT / "bench").rglob("*.py"), *(ROOT / "consumers/web/static").rglob("*.*s")]
    assert any(path.suffix == ".js" for path in files)
    long = {str(path.relative_to(ROOT)): n for path in files if (n := len(path.read_text().splitlines())) > 330}
    assert long == {}


def test_every_module_and_public_class_has_a_docstring() -> None:
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
    for command in set(re.findall(r"^ {4}council ([\w-]+)", readme, re.M)) | {"stop", "status"}:
        assert re.search(rf"^ +{command} ", help_text, re.M), command
    for module in re.findall(r"python -m ([\w.]+)", readme):
        assert (ROOT / module.replace(".", "/") / "__main__.py").exists(), module


def test_every_link_in_the_documents_has_a_target() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@needs_git
def test_the_wheel_contains_every_room_with_its_types_scripts_and_page_and_the_licence(tmp_path: Path) -> None:
    """Built without a network: the build tool is among the packages for development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(ROOMS)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        licence = next(name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
        assert opened.read(licence) == (ROOT / "LICENSE").read_bytes()
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *ROOMS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {name for name in names if ".dist-info/" not in name} == set(tracked.stdout.split())
    assert {f"{room}/py.typed" for room in ROOMS} <= names


def test_the_licence_is_apache_2_0_word_for_word() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_docker_image_contains_every_room() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    named = {name for line in copied for name in line.split()}
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert set(ROOMS) | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == named
    assert ignored[0] == "*"
    assert named == {name[1:] for name in ignored if name.startswith("!")}


def test_the_compose_file_starts_every_role() -> None:
    started = set(re.findall(r'"python", "-m", "([\w.]+)"', (ROOT / "compose.yaml").read_text()))
    roles = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in ROOT.glob("*/**/__main__.py")}
    roles = {role for role in roles if role.split(".")[0] in ("producers", "aggregator", "consumers")}
    assert started == roles | {"runtime.relay"}


def test_every_script_documents_its_keys_and_arguments() -> None:
    for script in SCRIPTS.values():
        assert b"KEYS" in script.source.split(b"\n\n")[0]
    names = {path.stem for path in (ROOT / "transport/lua").glob("*.lua")}
    assert len(names) == len(SCRIPTS)


def test_the_docstring_of_the_errors_draws_their_tree() -> None:
    from schemas import errors

    def all_below(kind: type) -> set[str]:
        return {name for child in kind.__subclasses__() for name in {child.__name__} | all_below(child)}

    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    assert drawn == {name for name in all_below(CouncilError) if hasattr(errors, name)}


@needs_git
def test_nothing_in_the_repository_names_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    pattern = re.compile(r"/(?:wo" + r"rk|ro" + r"ot|home/\w+)/|https?://[^ )]*/sim" + r"ple")
    found = [
        name for name in tracked if (ROOT / name).suffix in {".py", ".md", ".toml", ".txt", ".lua", ".js", ".yaml", ""}
    ]
    assert [
        name for name in found if (ROOT / name).is_file() and pattern.search((ROOT / name).read_text(errors="replace"))
    ] == []
