"""An export has the recorded values, as the reader of each format reads them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from council.recording import export as exporting
from council.recording.export import export
from schemas.entries import Token, decode_entry, encode_entry
from schemas.errors import Refused
from schemas.frame_json import recorded_frame_json
from tests.golden import golden
from tests.support.council_command import COUNCIL, environment
from tests.support.council_in_process import council
from tests.support.recording_files import NAME, frames_of, recording, write_recording


def tokens() -> list[tuple[str, Token]]:
    decoded = [(entry_id, decode_entry(raw)) for entry_id, raw in golden(NAME).entries]
    return [(entry_id, entry) for entry_id, entry in decoded if isinstance(entry, Token)]


def test_json_lines_have_every_token_and_the_frames_as_they_were_recorded(tmp_path: Path) -> None:
    path = recording(tmp_path)
    lines = council("export", str(path), "--format", "jsonl").lines
    assert [(one["id"], one["text"], one["seq"]) for one in lines] == [
        (entry_id, token.text, token.seq) for entry_id, token in tokens()
    ]
    out = tmp_path / "frames.jsonl"
    assert council("export", str(path), "--format", "jsonl", "--what", "frames", "-o", str(out)).code == 0
    assert out.read_bytes().splitlines() == [recorded_frame_json(frame) for frame in frames_of(NAME)]


def test_csv_has_a_column_for_each_number_of_frame_and_members(tmp_path: Path) -> None:
    out = tmp_path / "frames.csv"
    export(recording(tmp_path), "csv", "frames", out)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["energy"]) for row in rows] == [frame.energy for frame in frames_of(NAME)]
    for index in range(3):
        energies = [frame.members[index].energy for frame in frames_of(NAME)]
        assert [float(row[f"member_{index}_energy"]) for row in rows] == energies
    assert {row["final"] for row in rows} == {"true", "false"}


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_text_becomes_a_formula_in_csv(text: str, tmp_path: Path) -> None:
    stream = list(golden(NAME).entries)
    place = next(at for at, (_, raw) in enumerate(stream) if isinstance(decode_entry(raw), Token))
    token = decode_entry(stream[place][1])
    stream[place] = stream[place][0], encode_entry(msgspec.structs.replace(token, text=text))
    path = write_recording(tmp_path / "formula.mcap", stream, frames_of(NAME))
    out = tmp_path / "tokens.csv"
    export(path, "csv", "tokens", out)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["text"] == f"'{text}"
    assert float(rows[1]["logprob"]) < 0


def test_parquet_has_typed_columns_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(exporting, "_ROW_GROUP", 50)
    path = recording(tmp_path)
    for what, count in (("frames", len(frames_of(NAME))), ("tokens", len(tokens()))):
        out = tmp_path / f"{what}.parquet"
        assert export(path, "parquet", what, out) == count
        found = parquet.ParquetFile(out)
        assert found.num_row_groups == -(-count // 50)
        assert found.metadata.num_rows == count
    table = parquet.read_table(tmp_path / "frames.parquet").to_pydict()
    assert table["jsd"] == [frame.measures.jsd for frame in frames_of(NAME)]
    assert parquet.read_table(tmp_path / "tokens.parquet").to_pydict()["text"] == [one.text for _, one in tokens()]


def _attributes(record: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in record["attributes"]}


def test_otlp_has_tokens_as_log_records_and_frames_as_gauges(tmp_path: Path) -> None:
    path = recording(tmp_path)
    logs = council("export", str(path), "--format", "otlp").lines
    records = [record for line in logs for record in line["resourceLogs"][0]["scopeLogs"][0]["logRecords"]]
    assert [record["body"]["stringValue"] for record in records] == [token.text for _, token in tokens()]
    assert [_attributes(record)["council.seq"] for record in records] == [str(token.seq) for _, token in tokens()]
    assert all(isinstance(record["timeUnixNano"], str) for record in records)
    lines = council("export", str(path), "--format", "otlp", "--what", "frames").lines
    energies = list[float]()
    for line in lines:
        metrics = {one["name"]: one["gauge"] for one in line["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]}
        energies += [point["asDouble"] for point in metrics["council.energy"]["dataPoints"]]
        assert all(isinstance(point["asInt"], str) for point in metrics["council.late"]["dataPoints"])
    assert energies == [frame.energy for frame in frames_of(NAME)]


def test_a_file_without_text_is_exported_with_its_numbers(tmp_path: Path) -> None:
    lines = council("export", str(recording(tmp_path, text=False)), "--format", "jsonl").lines
    assert [one["seq"] for one in lines] == [token.seq for _, token in tokens()]
    assert not any("text" in one for one in lines)


def test_an_unknown_format_or_kind_is_refused(tmp_path: Path) -> None:
    path, out = str(recording(tmp_path)), tmp_path / "there.csv"
    council("export", path, "--format", "xml").assert_refused("jsonl, csv, parquet, otlp")
    council("export", path, "--format", "csv", "--what", "events").assert_refused("choose one of tokens, frames")
    council("export", path, "--format", "parquet").assert_refused("-o")
    out.write_text("mine")
    council("export", path, "--format", "csv", "-o", str(out)).assert_refused("exists already")
    assert out.read_text() == "mine"
    assert council("export", path, "--format", "csv", "-o", str(out), "--force").code == 0
    assert out.read_text().startswith("id,time,")


def test_without_pyarrow_the_message_has_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Refused, match=r'pip install "turbo-ensemble\[parquet\]"'):
        export(recording(tmp_path), "parquet", "tokens", tmp_path / "out.parquet")


def test_a_damaged_file_leaves_no_file_and_an_existing_one_unchanged(tmp_path: Path) -> None:
    path, out = recording(tmp_path), tmp_path / "out.jsonl"
    path.write_bytes(path.read_bytes()[:-50])
    out.write_text("mine")
    done = council("export", str(path), "--format", "jsonl", "-o", str(out), "--force")
    assert (done.code, out.read_text()) == (1, "mine")
    assert sorted(os.listdir(tmp_path)) == [out.name, path.name]


@pytest.mark.parametrize("format_name", ["jsonl", "parquet"])
def test_a_full_disk_leaves_no_file(format_name: str, tmp_path: Path) -> None:
    """The limit on a file's size is used in place of a full disk: the error is EFBIG."""
    path, out = recording(tmp_path), tmp_path / "out"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)); from council.command.cli import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(path), "--format", format_name, "--what", "frames", "-o", str(out)],
        env=environment(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr
    assert os.listdir(tmp_path) == [path.name]


def test_a_reader_that_closes_the_pipe_ends_the_export_without_a_message(tmp_path: Path) -> None:
    path = recording(tmp_path, "seeds")
    with subprocess.Popen(
        [*COUNCIL, "export", str(path), "--format", "jsonl", "--what", "frames"],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(100)
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, b"")


def test_a_full_device_is_one_sentence(tmp_path: Path) -> None:
    path = recording(tmp_path)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COUNCIL, "export", str(path), "--format", "csv"],
            env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
