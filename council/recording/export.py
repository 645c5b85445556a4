"""`council export`: the tokens or frames of a recording, one after another, in a format for other tools."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec

from council.recording.otlp import logs_line, metrics_line
from council.recording.rows import TOKEN_COLUMNS, Column, frame_columns, frame_row, token_row
from recordings.difference import frame_values
from recordings.parts import part_of
from recordings.plain import plain
from recordings.reading import RecordingReader
from schemas.errors import Refused
from schemas.frame_json import frame_of_json

FORMATS = ("jsonl", "csv", "parquet", "otlp")
KINDS = ("tokens", "frames")
# Rows that are written together: in one request of OTLP, in one row group of Parquet.
_BATCH, _ROW_GROUP = 60, 6_000
# A spreadsheet reads a cell that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NS_PER_S = 10**9

Progress = Callable[[int], None]


def checked(format_name: str, what: str, out: Path | None) -> None:
    """Raises Refused for an unknown format or kind of rows, or a format that cannot be written to standard output."""
    if format_name not in FORMATS:
        raise Refused("bad_format", f"--format is {plain(format_name)!r}: choose one of {', '.join(FORMATS)}.")
    if what not in KINDS:
        raise Refused("bad_rows", f"--what is {plain(what)!r}: choose one of {', '.join(KINDS)}.")
    if format_name == "parquet":
        if out is None:
            raise Refused("no_file", "A Parquet file cannot be written to standard output: name a file with -o.")
        _parquet()


def export(
    path: Path, format_name: str, what: str, out: Path | None, *, force: bool = False, progress: Progress | None = None
) -> int:
    """Writes the rows to `out`, or to standard output if that is None; returns their number.

    Raises Refused, Damage, Malformed; Unavailable where the disk fails. After an error, `out` is unchanged.
    """
    checked(format_name, what, out)
    with RecordingReader(path) as reader:
        if out is None:
            return _write_text(reader, format_name, what, sys.stdout.buffer, progress)
        with part_of(out, replaces=force) as part:
            if format_name == "parquet":
                return _write_parquet(reader, what, part, progress)
            with part.open("wb") as file:
                return _write_text(reader, format_name, what, file, progress)


def _rows(reader: RecordingReader, what: str, progress: Progress | None) -> Iterator[list[Any]]:
    for item in _items(reader, what, progress):
        row = frame_row(item, reader.about) if what == "frames" else token_row(item, reader.about)
        if row is not None:
            yield row


def _items(reader: RecordingReader, what: str, progress: Progress | None) -> Iterator[Any]:
    wanted = "frame" if what == "frames" else "entry"
    for item in reader.items():
        if item.kind == wanted:
            yield item
        if progress:
            progress(reader.at_bytes)


def _columns(reader: RecordingReader, what: str) -> tuple[Column, ...]:
    return frame_columns(reader.about) if what == "frames" else TOKEN_COLUMNS


def _write_text(
    reader: RecordingReader, format_name: str, what: str, file: IO[bytes], progress: Progress | None
) -> int:
    lines = {"jsonl": _json_lines, "csv": _csv_lines, "otlp": _otlp_lines}[format_name]
    is_terminal, total = file.isatty(), 0
    for line, rows in lines(reader, what, progress):
        # JSON and CSV leave control characters in that a terminal would obey.
        shown = plain(line.decode(errors="replace").rstrip("\r\n")).encode() + b"\n" if is_terminal else line
        file.write(shown)
        total += rows
    file.flush()
    return total


def _json_lines(reader: RecordingReader, what: str, progress: Progress | None) -> Iterator[tuple[bytes, int]]:
    if what == "frames":
        for item in _items(reader, what, progress):
            values = frame_values(item.raw)
            yield (msgspec.json.encode(values) if b"\n" in item.raw else item.raw) + b"\n", 1
        return
    names = [name for name, _ in TOKEN_COLUMNS]
    for row in _rows(reader, what, progress):
        row[1] = _time(row[1])
        yield msgspec.json.encode({n: v for n, v in zip(names, row, strict=True) if v is not None}) + b"\n", 1


def _csv_lines(reader: RecordingReader, what: str, progress: Progress | None) -> Iterator[tuple[bytes, int]]:
    columns, text = _columns(reader, what), io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")

    def taken() -> bytes:
        line = text.getvalue().encode()
        text.seek(0)
        text.truncate()
        return line

    writer.writerow([name for name, _ in columns])
    yield taken(), 0
    for row in _rows(reader, what, progress):
        writer.writerow([_cell(value, kind) for value, (_, kind) in zip(row, columns, strict=True)])
        yield taken(), 1


def _cell(value: Any, kind: str) -> Any:
    """A cell of a spreadsheet. An apostrophe is added before text that would be read as a formula."""
    if value is None:
        return ""
    if kind == "time":
        return _time(value)
    if kind == "flag":
        return "true" if value else "false"
    return f"'{value}" if kind == "text" and value.startswith(_FORMULA) else value


def _time(at_ns: int) -> str:
    """In UTC, in ISO 8601; in nanoseconds for a year that datetime does not support."""
    seconds, rest_ns = divmod(at_ns, _NS_PER_S)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z"
    except (ValueError, OverflowError, OSError):
        return str(at_ns)


def _otlp_lines(reader: RecordingReader, what: str, progress: Progress | None) -> Iterator[tuple[bytes, int]]:
    batch: list[Any] = []
    if what == "frames":
        source: Iterator[Any] = ((item.log_ns, frame_of_json(item.raw)) for item in _items(reader, what, progress))
        line: Callable[..., bytes] = metrics_line
    else:
        source, line = _rows(reader, what, progress), logs_line
    for one in source:
        batch.append(one)
        if len(batch) == _BATCH:
            yield line(batch, reader.about) + b"\n", len(batch)
            batch = []
    if batch:
        yield line(batch, reader.about) + b"\n", len(batch)


def _parquet() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises Refused where they are not installed."""
    try:
        import pyarrow  # imported here: it is large, and optional
        from pyarrow import parquet
    except ImportError:
        raise Refused(
            "no_pyarrow", 'Parquet needs the package pyarrow: pip install "turbo-ensemble[parquet]" installs it.'
        ) from None
    return pyarrow, parquet


def _write_parquet(reader: RecordingReader, what: str, part: Path, progress: Progress | None) -> int:
    pyarrow, parquet = _parquet()
    kinds = {
        "text": pyarrow.string(),
        "time": pyarrow.timestamp("us", tz="UTC"),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "flag": pyarrow.bool_(),
    }
    columns = _columns(reader, what)
    time_column = [kind for _, kind in columns].index("time")
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns])
    total, gathered = 0, list[list[Any]]()
    with contextlib.closing(parquet.ParquetWriter(str(part), schema, compression="zstd")) as writer:

        def write() -> None:
            values = list(zip(*gathered, strict=True)) or [()] * len(columns)
            try:
                arrays = [pyarrow.array(column, field.type) for column, field in zip(values, schema, strict=True)]
            except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError) as error:
                raise Refused("not_parquet", f"A value does not fit into a Parquet column: {error}") from None
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))

        for row in _rows(reader, what, progress):
            gathered.append([value // 1_000 if at == time_column else value for at, value in enumerate(row)])
            total += 1
            if len(gathered) == _ROW_GROUP:
                write()
                gathered.clear()
        if gathered or not total:
            write()
    return total
