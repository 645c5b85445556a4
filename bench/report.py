"""The result of a benchmark: tables, and aims with the measured values."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.table import Table


class Aim(msgspec.Struct, frozen=True):
    """A bound that a number should meet. It is reported, never asserted."""

    wanted: str
    measured: str
    is_met: bool


class BenchReport(msgspec.Struct, frozen=True):
    """One benchmark's results."""

    tables: tuple[Table, ...]
    aims: tuple[Aim, ...] = ()


def table_of(title: str, caption: str, columns: Sequence[str]) -> Table:
    """An empty table: names are aligned left, numbers right."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", min_width=100)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table


def aims_table(aims: Sequence[Aim]) -> Table:
    """The aims of all benchmarks in one table."""
    table = Table(title="Aims", title_justify="left", min_width=100)
    for name in ("aim", "measured", ""):
        table.add_column(name)
    for aim in aims:
        table.add_row(aim.wanted, aim.measured, "[green]met[/]" if aim.is_met else "[red]not met[/]")
    return table


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of the values do not exceed; NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
