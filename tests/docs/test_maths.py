"""docs/maths.md against the code: its pictures, its tables, its sums, and every number of a frame; and the sample and
the fields of docs/frames.md."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from aggregator.numbers.interference import KIND_WINDOWS, Interference
from council.command.ask_summary import AskSummary
from schemas.frame_json import FRAME_FIELDS, frame_json
from schemas.frames import Frame, MemberFrame, TokenFrame
from tests.support.council_command import environment
from tests.support.project import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "maths.md").read_text()
SHOWN = re.findall(r"!\[([^\]]*)\]\(maths/([^)]+)\)", PAGE)
# Fields that are not measurements; docs/frames.md has them.
NOT_MEASURED = {
    *("version", "session", "window_index", "start_ns", "end_ns", "mode", "final", "cut", "members", "tokens", "tier"),
    *("name", "model", "state", "text", "thinking", "reason", "remote", "awaited", "replay_of", "agreed"),
}
MOST_BYTES = 60_000
# In points, in a picture of 540 points; a telephone shows half of that.
LEAST_POINTS = 9.9


def drawn(folder: Path) -> dict[str, bytes]:
    """The files that `python docs/pictures.py FOLDER` writes."""
    done = subprocess.run(
        [sys.executable, str(DOCS / "pictures.py"), str(folder)],
        env=environment(PYTHONPATH=str(DOCS.parent)), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return drawn(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def examples() -> Iterator[ModuleType]:
    """docs/examples.py as a module."""
    spec = importlib.util.spec_from_file_location("examples", DOCS / "examples.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def rows_of(first_cell: str) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the page's table whose first cell this is."""
    lines = iter(PAGE.splitlines())
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    begin = next(i for i, row in enumerate(cells) if row[0] == first_cell)
    rows = []
    for row in cells[begin + 2 :]:
        if len(row) != len(cells[begin]):
            break
        rows.append(row)
    return cells[begin], rows


def as_shown(value: Any) -> str:
    """A value as the tables of the page show it."""
    return "null" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value).lower()


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_script_draws_exactly_the_pictures_that_the_page_shows_and_the_repository_holds(
    fresh: dict[str, bytes],
) -> None:
    assert sorted(fresh) == sorted(name for _, name in SHOWN)
    assert sorted(fresh) == sorted(path.name for path in (DOCS / "maths").iterdir())


def test_two_runs_draw_the_same_bytes(fresh: dict[str, bytes], tmp_path: Path) -> None:
    assert drawn(tmp_path) == fresh


def test_each_picture_is_small_and_legible_has_a_dark_form_and_a_description(
    fresh: dict[str, bytes],
) -> None:
    kept = {f"kept {path.name}": path.read_bytes() for path in (DOCS / "maths").iterdir()}
    for name, svg in {**fresh, **kept}.items():
        text = svg.decode()
        assert len(svg) <= MOST_BYTES, name
        root = ElementTree.fromstring(text)
        assert root.get("width") == "540pt", name
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", text)]
        assert min(sizes, default=0.0) >= LEAST_POINTS, name
        assert "prefers-color-scheme: dark" in text, name
        assert "<dc:date>" not in text, name
    assert all(len(words) > 40 for words, _ in SHOWN)


def test_the_energy_that_is_drawn_is_the_sum_of_the_parts_that_are_drawn(examples: ModuleType) -> None:
    """E = 0.35 (0.5 v + 0.3 c + 0.2 f) + 0.65 E before, which halves every 700 ms from 400 ms after an arrival on."""
    tokens = [*examples.FAST, *examples.SLOW]
    frames = examples.frames_of([tokens])
    energy, last_s = 0.0, 0.0
    for seq, (at_s, velocity, certainty, friction) in enumerate(examples.parts_of_energy(tokens)):
        decayed = energy * 0.5 ** (max(0.0, at_s - last_s - 0.4) / 0.7)
        energy, last_s = 0.35 * (0.5 * velocity + 0.3 * certainty + 0.2 * friction) + 0.65 * decayed, at_s
        shown = next(frame for frame in frames if frame.tokens and frame.tokens[0].seq == seq)
        assert shown.members[0].energy == pytest.approx(energy, abs=1e-8)


# --- the pages --------------------------------------------------------------------------------------------------------


def test_every_number_of_a_frame_is_on_the_page() -> None:
    fields = {*FRAME_FIELDS, *MemberFrame.__struct_fields__} - NOT_MEASURED
    assert sorted(field for field in fields if f"`{field}`" not in PAGE) == []


def test_the_table_of_examples_shows_what_the_code_measures(examples: ModuleType) -> None:
    """Each column is one of the EXAMPLES, each row a field of a frame."""
    head, rows = rows_of("shown")
    names = head[1:]
    assert names == list(examples.EXAMPLES)
    energies = examples.EXAMPLE_ENERGIES
    found = []
    for name in names:
        m = examples.measured(name)
        state = Interference()
        agreement = state.shown_agreement(m.agreement, "next")
        waves = [state.step(sum(energies) / len(energies), energies, agreement) for _ in range(KIND_WINDOWS)]
        wave = waves[-1]
        found.append(
            {field: getattr(m, field) for field in m.__struct_fields__}
            | {"wave": wave.wave, "amplified": wave.amplified, "dampened": wave.dampened, "interference": wave.kind}
        )
    assert [row[0] for row in rows] == [f"`{field}`" for field in found[0]]
    assert [row[1:] for row in rows] == [[as_shown(one[field]) for one in found] for field in found[0]]


def test_the_table_of_arrivals_shows_what_the_frames_contain(examples: ModuleType) -> None:
    tokens = [*examples.FAST, *examples.SLOW]
    frames = examples.frames_of([tokens])
    _, rows = rows_of("arrival")
    for number, tokens_per_s, certainty, dt, energy in rows:
        seq = int(number) - 1
        frame = next(frame for frame in frames if frame.tokens and frame.tokens[0].seq == seq)
        shown = frame.members[0]
        gap = f"{tokens[seq][0] - tokens[seq - 1][0]:,} ms" if seq else "none"
        assert (f"{shown.tokens_per_s:g}", as_shown(shown.certainty), gap, as_shown(shown.energy)) == (
            tokens_per_s, certainty, dt, energy,
        )  # fmt: skip


def test_the_sums_on_the_page_add_up() -> None:
    """Every `sum = number` in code is right to the digits that it shows, but for one in the last: its inputs are
    rounded."""
    sums = re.findall(r"`([\d.+×−/()^ln ]*\d[\d.+×−/()^ln ]*) = ([\d.]+)`", PAGE)
    assert len(sums) >= 20
    for left, right in sums:
        code = left.replace("×", "*").replace("−", "-").replace("^", "**")
        digit = 10.0 ** -len(right.partition(".")[2])
        value = eval(code, {"__builtins__": {}, "ln": math.log})
        assert abs(value - float(right)) <= 1.01 * digit, f"{left} = {value}, not {right}"


def test_the_contents_link_to_every_section() -> None:
    titles = re.findall(r"^## (.*)$", PAGE, re.M)
    contents = re.findall(r"^- \[(.*)\]\(#(.*)\)$", PAGE, re.M)
    assert [title for title, _ in contents] == titles
    assert [anchor for _, anchor in contents] == [
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
    ]


def test_the_sample_of_the_frames_page_finds_a_tokens_bytes(examples: ModuleType) -> None:
    """The answer begins with white space of two kinds: one that positions leave out, and one that they count."""
    texts = ["\n ", " \u00a0", "na\u00efve", " end"]
    tokens = [(100 * i, text, {text: 0.5, " or": 0.25}) for i, text in enumerate(texts)]
    frames = [json.loads(frame_json(frame)) for frame in examples.frames_of([tokens])]
    sample = re.search(r"```python\n(.*?)```", (DOCS / "frames.md").read_text(), re.S)
    assert sample
    pieces = []
    for token in [token for frame in frames for token in frame["tokens"]]:
        names = {"frames": frames, "token": token}
        exec(sample[1], names)
        pieces.append(names["piece"])
    assert pieces == [b"", "\u00a0".encode(), "na\u00efve".encode(), b" end"]


def test_the_frames_page_names_every_field_of_a_frame_and_of_the_summary() -> None:
    page = (DOCS / "frames.md").read_text()
    fields = {*FRAME_FIELDS, *MemberFrame.__struct_fields__, *TokenFrame.__struct_fields__}
    assert sorted(field for field in fields if not re.search(rf"\b{field}\b", page)) == []
    after = page.partition("## After the final frame")[2].partition("\n## ")[0]
    assert sorted(field for field in AskSummary("", "").as_object() if not re.search(rf"\b{field}\b", after)) == []


def test_the_frames_page_shows_the_parts_of_a_frame() -> None:
    page = " ".join((DOCS / "frames.md").read_text().split())
    for field in msgspec.structs.fields(Frame):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            fields = ", ".join(field.type.__struct_fields__).replace("kind", "kind (`interference` in JSON)")
            assert f"| `frame.{field.name}` | {fields} |" in page
