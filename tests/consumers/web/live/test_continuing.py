"""Which session a client of `/ws` continues that names none."""

from __future__ import annotations

import time

import pytest

from consumers.web.live.continuing import unfinished_at
from schemas.grid import window_index_at
from transport.sessions import SessionState


def session(name: str, opened_s: float, window: int, status: str = "ended", *, is_replay: bool = False) -> SessionState:
    """Opened so many seconds ago."""
    opened_ms = int(time.time() * 1_000 - opened_s * 1_000)
    began = {"clock_ms": 10_000, "began_ms": opened_ms} if is_replay else {}
    opened = "9000-0" if is_replay else f"{opened_ms}-0"
    return SessionState(name, status, opened, window, 1, "", "0-0", "0-0", (), **began)  # type: ignore[arg-type]


def sessions() -> dict[str, SessionState]:
    """A ran for ten seconds, B for six, three of them beside A. C has run for five. D replays faster than the clock.

    The last opened one first."""
    found = [
        session("C", 5, 290, "open"),
        session("D", 20, 1_500, "open", is_replay=True),
        session("B", 93, 359),
        session("A", 100, 599),
    ]
    return {state.session: state for state in found}


@pytest.mark.parametrize(
    ("of", "window", "expected"),
    [
        ("A", -1, None),
        ("A", 0, "A"),
        ("A", 415, "A"),
        # B was the newest one from then on.
        ("B", 1, "B"),
        ("A", 598, "B"),
        ("B", 358, "B"),
        # Of B its last events are missing. Then all of it was received, and A had ended before.
        ("B", 359, "B"),
        ("B", 360, None),
        ("B", 361, None),
        ("D", 0, "D"),
        ("D", 890, "D"),
        # C was opened while D ran.
        ("C", 1, "C"),
        ("D", 1_500, "D"),
        ("C", 290, "C"),
        # Redis may have lost C's newest frames: C is continued, which tells the client to start again.
        ("C", 292, "C"),
        # No session can have had it.
        ("D", 2_000, None),
    ],
)
def test_the_last_opened_session_that_had_the_frame_is_continued(of: str, window: int, expected: str | None) -> None:
    """The number of the frame is that of a window of the session `of`."""
    states = sessions()
    found = unfinished_at(states.values(), window_index_at(states[of].shown_origin_ns) + window)
    assert (found and found.session) == expected


def test_a_client_that_has_all_of_its_session_does_not_continue_an_older_one_that_still_runs() -> None:
    ended = sessions()["B"]
    last = window_index_at(ended.shown_origin_ns) + 360
    older = session("older", 200, 11_990, "open")
    assert unfinished_at([ended, older], last) is None
    assert unfinished_at([ended, older], last + 1) is older
