"""A run of the benchmarks: what is printed, and the exit code."""

from __future__ import annotations

import sys

import pytest

from bench import __main__ as bench_main
from bench.report import Aim, BenchReport, table_of


def report_named(title: str) -> BenchReport:
    table = table_of(title, "caption", ("", "value"))
    table.add_row("row", "1")
    return BenchReport((table,), (Aim(f"aim of {title}", "1", True),))


def fails(seconds: float) -> BenchReport:
    raise RuntimeError("the aggregator died")


def test_a_benchmark_that_fails_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks = {"first": lambda _: report_named("One"), "broken": fails, "last": lambda _: report_named("Two")}
    monkeypatch.setattr(bench_main, "_BENCHMARKS", benchmarks)
    monkeypatch.setattr(sys, "argv", ["bench", "--seconds", "1"])
    assert bench_main.main() == 1
    out, err = capsys.readouterr()
    for title in ("One", "Two"):
        assert title in out
        assert f"aim of {title}" in out
    assert "broken failed: RuntimeError: the aggregator died" in out.splitlines()
    assert "Traceback" in err


def test_a_run_without_a_failure_ends_with_exit_code_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks = {"one": lambda _: report_named("One"), "other": fails}
    monkeypatch.setattr(bench_main, "_BENCHMARKS", benchmarks)
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "one"])
    assert bench_main.main() == 0
    assert "failed" not in capsys.readouterr().out
