"""The documents against the repository: what they name exists, and the glossary defines each word once."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.support.project import ROOMS, ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
# These two describe the code itself.
OF_THE_CODE = [DOCS / "architecture.md", DOCS / "glossary.md", ROOT / "CONTRIBUTING.md"]
# Paths are written in full, from the root of the repository.
FILE = re.compile(r"(?<![\w./-])[\w-]+(?:/[\w.-]+)*\.(?:py|lua|js|css|sh)\b")
FOLDER = re.compile(r"(?<![\w./~:-])((?:[\w-]+/)+)(?![\w*.{])")
CLASS = re.compile(r"`([A-Z][a-z]\w*)(?:\.\w+)?(?:\(\))?`")
LINK = re.compile(r"\]\([^)]*\)")


def words_of_the_glossary() -> list[tuple[str, str]]:
    """(word, meaning) of each entry; a cell with several words, separated by commas, has an entry for each."""
    page = (DOCS / "glossary.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")
    ]
    rows = [row for row in rows if row != ["word", "meaning"]]
    assert all(len(row) == 2 for row in rows)
    return [(word.strip("` "), meaning) for words, meaning in rows for word in words.split(", ")]


@pytest.fixture(scope="module")
def classes() -> set[str]:
    """The names of the classes, Python's and the page's."""
    found = {
        node.name
        for room in (*ROOMS, "bench")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    for script in (ROOT / "consumers/web/static").rglob("*.js"):
        found |= set(re.findall(r"^export class (\w+)", script.read_text(), re.M))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_source_file_that_a_document_names_exists(page: Path) -> None:
    # A link's target is relative to its page; tests/test_house.py checks those.
    text = LINK.sub("]", page.read_text())
    assert sorted({name for name in FILE.findall(text) if not (ROOT / name).exists()}) == []


@pytest.mark.parametrize("page", OF_THE_CODE, ids=lambda page: page.name)
def test_every_folder_and_class_that_a_page_about_the_code_names_exists(page: Path, classes: set[str]) -> None:
    text = LINK.sub("]", page.read_text())
    named = {name for span in re.findall(r"`([^`]+)`|^ {4}(\S+)", text, re.M) for name in FOLDER.findall("".join(span))}
    assert sorted(name for name in named if not (ROOT / name).is_dir()) == []
    assert sorted(set(CLASS.findall(text)) - classes) == []


def test_the_architecture_describes_every_room_and_every_import_contract() -> None:
    page = (DOCS / "architecture.md").read_text()
    folders = [path.parent for room in ROOMS for path in (ROOT / room).rglob("__init__.py")]
    tree = set(re.findall(r"^ {4}(\S+/) +\S", page, re.M))
    assert {f"{folder.relative_to(ROOT)}/" for folder in folders} - tree == set()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    plain = " ".join(page.split())
    assert [contract["name"] for contract in contracts if contract["name"] not in plain] == []


def test_the_glossary_defines_no_word_twice() -> None:
    words = [word.lower() for word, _ in words_of_the_glossary()]
    assert len(words) > 80
    assert sorted({word for word in words if words.count(word) > 1}) == []


def test_the_glossary_defines_only_words_that_are_used() -> None:
    files = [
        *(path for room in ROOMS for kind in ("*.py", "*.js", "*.lua") for path in (ROOT / room).rglob(kind)),
        *(page for page in PAGES if page.name != "glossary.md"),
    ]
    used = " ".join(" ".join(path.read_text().split()) for path in files).replace("_", " ").lower()
    words = [word.replace("_", " ").lower() for word, _ in words_of_the_glossary()]
    # "session node" is SessionNode in the code.
    assert [word for word in words if word not in used and word.replace(" ", "") not in used] == []


def test_no_heading_of_a_document_is_a_question() -> None:
    headings = {
        f"{page.name}: {heading}" for page in PAGES for heading in re.findall(r"^#+ .*$", page.read_text(), re.M)
    }
    assert len(headings) > 60
    assert {heading for heading in headings if heading.endswith("?")} == set()
