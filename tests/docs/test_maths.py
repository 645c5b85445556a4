"""docs/maths.md, held to the code: its pictures, its tables, its sums, and that no number of a frame is left out; and
the sample of docs/frames.md."""

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
from council.command.asking import AskSummary
from schemas.frames import FRAME_FIELDS, FRAME_VERSION, Frame, MemberFrame, TokenFrame, frame_json
from tests.support.commands import environment
from tests.support.project import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "maths.md").read_text()
SHOWN = re.findall(r"!\[([^\]]*)\]\(maths/([^)]+)\)", PAGE)
# What a frame is and holds, rather than what was measured: docs/frames.md says it.
NOT_MEASURED = {
    *("version", "session", "window_index", "start_ns", "end_ns", "mode", "final", "cut", "members", "tokens", "tier"),
    *("name", "model", "state", "text", "thinking", "reason", "remote", "awaited", "replay_of"),
}
MOST_BYTES = 60_000
# In points, of a picture of 540: half of that is left of them on a telephone.
LEAST_POINTS = 9.9


def drawn(folder: Path) -> dict[str, bytes]:
    """What `python docs/pictures.py FOLDER` makes."""
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
    """What the script draws, as a module: the places and the speech."""
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
    """A value as the page's tables show it."""
    return "null" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value).lower()


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_script_draws_exactly_the_pictures_that_the_page_shows_and_the_repository_holds(
    fresh: dict[str, bytes],
) -> None:
    assert sorted(fresh) == sorted(name for _, name in SHOWN)
    assert sorted(fresh) == sorted(path.name for path in (DOCS / "maths").iterdir())


def test_two_runs_draw_the_same_bytes(fresh: dict[str, bytes], tmp_path: Path) -> None:
    assert drawn(tmp_path) == fresh


def test_each_picture_is_small_legible_dark_at_night_and_has_words_for_those_who_do_not_see_it(
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


def test_the_parts_that_are_drawn_make_up_the_energy_that_is_drawn(examples: ModuleType) -> None:
    """E = 0.35 (0.5 v + 0.3 c + 0.2 f) + 0.65 E before, which from 400 ms after an arrival on halves every 700 ms."""
    said = [*examples.FAST, *examples.SLOW]
    frames = examples.frames_of([said])
    energy, last_s = 0.0, 0.0
    for seq, (at_s, velocity, certainty, friction) in enumerate(examples.moves(said)):
        decayed = energy * 0.5 ** (max(0.0, at_s - last_s - 0.4) / 0.7)
        energy, last_s = 0.35 * (0.5 * velocity + 0.3 * certainty + 0.2 * friction) + 0.65 * decayed, at_s
        shown = next(frame for frame in frames if frame.tokens and frame.tokens[0].seq == seq)
        assert shown.members[0].energy == pytest.approx(energy, abs=1e-8)


# --- the pages --------------------------------------------------------------------------------------------------------


def test_every_number_of_a_frame_is_on_the_page() -> None:
    fields = {*FRAME_FIELDS, *MemberFrame.__struct_fields__} - NOT_MEASURED
    assert sorted(field for field in fields if f"`{field}`" not in PAGE) == []


def test_the_table_of_places_says_what_the_code_measures(examples: ModuleType) -> None:
    """Each column is a council of the script, each row a field of a frame."""
    head, rows = rows_of("shown")
    names = head[1:]
    assert names == list(examples.PLACES)
    energies = examples.PLACE_ENERGIES
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


def test_the_table_of_arrivals_says_what_a_replay_shows(examples: ModuleType) -> None:
    frames = examples.frames_of([[*examples.FAST, *examples.SLOW]])
    said = [*examples.FAST, *examples.SLOW]
    _, rows = rows_of("arrival")
    for number, tokens_per_s, certainty, dt, energy in rows:
        seq = int(number) - 1
        frame = next(frame for frame in frames if frame.tokens and frame.tokens[0].seq == seq)
        shown = frame.members[0]
        gap = f"{said[seq][0] - said[seq - 1][0]:,} ms" if seq else "none"
        assert (f"{shown.tokens_per_s:g}", as_shown(shown.certainty), gap, as_shown(shown.energy)) == (
            tokens_per_s, certainty, dt, energy,
        )  # fmt: skip


def test_the_sums_on_the_page_add_up() -> None:
    """Every `sum = number` in code, to the digits that it shows; one in the last is forgiven, as its inputs are
    rounded."""
    sums = re.findall(r"`([\d.+×−/()^ln ]*\d[\d.+×−/()^ln ]*) = ([\d.]+)`", PAGE)
    assert len(sums) >= 20
    for left, right in sums:
        code = left.replace("×", "*").replace("−", "-").replace("^", "**")
        digit = 10.0 ** -len(right.partition(".")[2])
        value = eval(code, {"__builtins__": {}, "ln": math.log})
        assert abs(value - float(right)) <= 1.01 * digit, f"{left} = {value}, not {right}"


def test_contents_lead_to_every_section() -> None:
    titles = re.findall(r"^## (.*)$", PAGE, re.M)
    contents = re.findall(r"^- \[(.*)\]\(#(.*)\)$", PAGE, re.M)
    assert [title for title, _ in contents] == titles
    assert [anchor for _, anchor in contents] == [
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
    ]


def test_the_sample_of_the_frames_page_finds_a_tokens_bytes(examples: ModuleType) -> None:
    """The answer begins with white space of two kinds: that which positions leave out, and that which they count."""
    texts = ["\n ", " \u00a0", "na\u00efve", " end"]
    said = [(100 * i, text, {text: 0.5, " or": 0.25}) for i, text in enumerate(texts)]
    frames = [json.loads(frame_json(frame)) for frame in examples.frames_of([said])]
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


def test_the_frames_page_shows_the_parts_and_the_packed_order_of_a_frame() -> None:
    page = " ".join((DOCS / "frames.md").read_text().split())
    order = ", ".join(Frame.__struct_fields__).replace("version", f"version ({FRAME_VERSION})")
    assert order in page
    for field in msgspec.structs.fields(Frame):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            fields = ", ".join(field.type.__struct_fields__).replace("kind", "kind (`interference` in JSON)")
            assert f"| `frame.{field.name}` | {fields} |" in page
