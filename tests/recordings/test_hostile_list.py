"""A hostile file in the library has a line in the list, and affects no other line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from council.command.library_report import sparkline
from recordings.contents import RecordedMember
from recordings.folder import Library
from schemas.errors import Refused
from tests.golden import golden
from tests.support.council_in_process import council
from tests.support.recording_files import NAME, about_of, recording, write_recording


@pytest.mark.parametrize(
    "changes",
    [
        {"opened": f"{'9' * 5_000}-0"},
        {"opened": f"{2**62}-0"},
        {"origin_ns": "9" * 25},
        {"members": ()},
        {"members": (RecordedMember("a", "a"),) * 17},
        {"prompt": "A" * 2_000_000},
    ],
)
def test_metadata_that_no_council_writes_is_reported_as_damage_and_does_not_break_the_list(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    write_recording(tmp_path / "hostile.mcap", [], [], about=about_of(golden(NAME).entries, **changes))
    recording(tmp_path)
    for command in (("inspect", str(tmp_path / "hostile.mcap")), ("recordings", "--recordings", str(tmp_path))):
        assert council(*command).code in (0, 1)
    listed = msgspec.json.decode(council("recordings", "--json", "--recordings", str(tmp_path)).out)
    assert {one["name"]: bool(one["problem"]) for one in listed} == {"hostile.mcap": True, f"{NAME}.mcap": False}


def test_no_value_of_agreement_breaks_the_list() -> None:
    assert sparkline([1e308, 1e308, -1e308, None, *([1e308] * 61)]).strip(" ▁▂▃▄▅▆▇█") == ""


def test_a_file_name_in_the_list_does_not_control_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "\x1b[31mred.mcap").write_bytes(b"not a recording")
    outcome = council("recordings", "--recordings", str(tmp_path))
    assert outcome.code == 0
    assert "\x1b" not in outcome.out


@pytest.mark.parametrize("name", [f"{'x' * 300}.mcap", "\ud800.mcap", "a\0b.mcap", "../a.mcap"])
def test_a_name_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="There is no recording"):
        Library(tmp_path).path(name)
