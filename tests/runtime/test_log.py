"""The log of a process: one line for each event."""

from __future__ import annotations

import logging

import pytest

from runtime.log import Log, log_to_stderr


def test_an_event_is_one_line_with_its_level_and_all_fields(capsys: pytest.CaptureFixture[str]) -> None:
    Log(logging.INFO, role="producer").bind(session="abc").warning("Redis is back", error="a b\nc", count=3)
    (line,) = capsys.readouterr().err.splitlines()
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert rest == r"[warning  ] Redis is back role=producer session=abc error='a b\nc' count=3"


def test_a_bound_log_leaves_the_other_one_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(logging.INFO, role="web")
    log.bind(session="abc")
    log.info("started")
    assert "session" not in capsys.readouterr().err


def test_an_exception_is_logged_with_its_traceback_and_without_variables(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "secret"
    try:
        raise ValueError(len(prompt))
    except ValueError:
        log_to_stderr("aggregator").exception("a session cannot be computed", session="abc")
    written = capsys.readouterr().err
    assert "[error    ] a session cannot be computed role=aggregator session=abc\nTraceback" in written
    assert "ValueError: 6" in written
    assert "secret" not in written


@pytest.mark.parametrize(("level", "lines"), [("info", 3), ("warning", 2), ("", 2), ("nonsense", 2), ("ERROR", 1)])
def test_council_log_sets_the_level(
    level: str, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COUNCIL_LOG", level)
    log = log_to_stderr("web")
    log.info("one")
    log.warning("two")
    log.error("three")
    assert len(capsys.readouterr().err.splitlines()) == lines
