"""`council keep`, `council replay` and `council recordings`, as a user types them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from recordings.folder import Library
from recordings.reading import read_metadata
from schemas.sessions import Opening
from tests.consumers.recorder.test_recorder import ask, council_of
from tests.golden import golden
from tests.support.council_command import COUNCIL, Outcome, council, environment
from tests.support.council_in_process import council as council_here
from tests.support.recording_files import record_stream, recorded_entries, recorded_frames
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.sessions import token_stream, until_ended
from tests.support.web_server import PACE
from transport.redis.connection import AsyncPipe


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recording of three seconds."""
    return record_stream(tmp_path / "early.mcap", golden("early-end").entries)


async def ended(pipe: AsyncPipe, roles: Roles) -> Opening:
    council_of(roles, *PACE)
    opening = await ask(pipe, 10)
    await until_ended(pipe, opening.session)
    return opening


def test_ask_records_the_shown_session_into_a_file(tmp_path: Path) -> None:
    file = tmp_path / "asked.mcap"
    asked = council(
        "ask", "What is a list?", "--models", "ngram:word-3,ngram:char-6", "--max-tokens", "10", "--record", str(file),
        "--json", COUNCIL_NGRAM_TOKENS_PER_S="100", TMPDIR=str(tmp_path),
    )  # fmt: skip
    assert asked.code == 0, asked.said
    assert re.search(r"Recorded \d+ frames into .*asked.mcap \(\d+ kB\)", asked.said)
    *frames, summary = asked.lines
    assert [frame.energy for frame in recorded_frames(file)] == [frame["energy"] for frame in frames]
    assert read_metadata(file)[0].session == summary["session"]
    again = council("ask", "What?", "--record", str(file))
    again.assert_refused("exists already")
    council("ask", "What?", "--record", str(tmp_path / "no" / "file.mcap")).assert_refused("There is no folder")


async def test_keep_records_a_session_that_redis_has(
    pipe: AsyncPipe, redis: RedisServer, roles: Roles, tmp_path: Path
) -> None:
    opening = await ended(pipe, roles)
    file, library = tmp_path / "kept.mcap", tmp_path / "library"
    assert council("keep", opening.session, str(file), url=redis.url).code == 0
    assert recorded_entries(file) == await token_stream(pipe, opening.session)
    assert council("keep", opening.session, "--recordings", str(library), url=redis.url).code == 0
    (name,) = Library(library).names()
    assert name.endswith(f"_what-is-a-list_{opening.session}.mcap")
    council("keep", opening.session, str(file), url=redis.url).assert_refused("exists already")
    gone = council("keep", "0" * 12, str(tmp_path / "gone.mcap"), url=redis.url)
    assert (gone.code, "Traceback" in gone.said) == (1, False)
    gone.assert_said("There is no session")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["kept.mcap", "library"]


def test_replay_writes_the_recorded_frames_marked_as_a_replay(redis: RedisServer, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    for arguments in ((), ("--frames",)):
        played = council("replay", str(path), "--rate", "max", "--json", *arguments, url=redis.url)
        assert played.code == 0, played.said
        *frames, summary = played.lines
        recorded = recorded_frames(path)
        assert [frame["energy"] for frame in frames] == [frame.energy for frame in recorded]
        assert {frame["replay_of"] for frame in frames} == {recorded[0].session}
        assert summary["replay"]["entries"] == len(recorded_entries(path)) - 1
        assert summary["replay"]["achieved_rate"] > 1


def test_replay_starts_a_private_council_where_none_runs(path: Path, tmp_path: Path) -> None:
    played = council("replay", str(path), "--rate", "8", "--json", "--from", "0.5", TMPDIR=str(tmp_path))
    assert (played.code, len(played.lines) - 1) == (0, len(recorded_frames(path)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "0.1"], "--rate is '0.1'"),
        (["--rate", "fast"], "or max"),
        (["--rate", "nan"], "--rate is 'nan'"),
        (["--from", "-1"], "--from is '-1'"),
        (["--from", "2", "--to", "1"], "--to is not after --from"),
        (["--from", "100"], "the recording is"),
        (["--to", "soon"], "--to is 'soon'"),
    ],
)
def test_invalid_options_of_a_replay_are_refused_before_anything_starts(
    path: Path, arguments: list[str], words: str
) -> None:
    council_here("replay", str(path), *arguments).assert_refused(words)


def test_a_file_that_is_not_a_recording_is_refused_in_one_sentence(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mcap"
    text.write_text("What is a list?" * 10)
    council_here("replay", str(text)).assert_refused("is not an MCAP file")
    council_here("replay", str(tmp_path)).assert_refused()
    council_here("replay", "there-is-no-such-recording").assert_refused("cannot be read")
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(path.read_bytes()[:-40])
    broken = council("replay", str(cut), "--json", "--rate", "max")
    assert broken.code == 1
    broken.assert_said("council recover")


def test_recordings_are_listed_searched_starred_and_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    library = ("recordings", "--recordings", str(folder))
    assert "council keep" in council_here(*library).out
    for name in ("twins", "thinking"):
        file = record_stream(tmp_path / f"{name}.mcap", golden(name).entries)
        assert council_here(*library, "import", str(file)).code == 0
    listed = council_here(*library, "--json").lines[0]
    assert sorted(one["name"] for one in listed) == ["thinking.mcap", "twins.mcap"]
    assert [one["name"] for one in council_here(*library, "--words", "THINKS list", "--json").lines[0]] == [
        "thinking.mcap"
    ]
    assert council_here(*library, "star", "twins.mcap").code == 0
    assert [one["starred"] for one in council_here(*library, "--words", "twins", "--json").lines[0]] == [True]
    assert "★" in council_here(*library, COLUMNS="200").out
    assert council_here(*library, "unstar", "twins.mcap").code == 0
    assert council_here(*library, "path", "twins.mcap").out.strip() == str(folder / "twins.mcap")
    council_here(*library, "delete", "twins.mcap").assert_refused("--yes")
    assert council_here(*library, "delete", "twins.mcap", "--yes").code == 0
    council_here(*library, "delete", "../thinking.mcap", "--yes").assert_refused("There is no recording")
    council_here(*library, "import", str(folder)).assert_refused()
    assert [one.name for one in folder.iterdir()] == ["thinking.mcap"]


def test_a_replay_is_found_by_its_name_in_the_library(redis: RedisServer, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    named = council(
        "replay", path.name, "--recordings", str(path.parent), "--rate", "max", "--json", "--frames", url=redis.url
    )
    assert named.code == 0, named.said


def test_keys_control_a_replay_in_a_terminal(redis: RedisServer, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    terminal = Terminal(["replay", str(path), "--pause"], redis.url)
    terminal.until(r"replay 0\.0 of .* paused")
    terminal.press(b"\x1b[C\x1b[C")
    terminal.until(r"replay 0\.0 of .* paused")
    terminal.press(b"5")
    at = float(terminal.until(r"replay ([1-9]\.\d|0\.[5-9]) of .* paused")[1])
    terminal.press(b"\x1b[D")
    terminal.press(b" ")
    terminal.until(r"× 1 ")
    terminal.press(b"\x1b[A")
    terminal.until(r"× 2 ")
    terminal.press(b" 0")
    terminal.until(r"replay 0\.0 of .* paused")
    assert at > 0.4
    terminal.press(b"q")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.text


def test_ctrl_c_ends_a_replay_that_loops(redis: RedisServer, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    process = subprocess.Popen(
        [*COUNCIL, "replay", str(path), "--loop", "--rate", "max", "--json"], env=environment(redis.url),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    finals = 0
    while finals < 2:
        line = process.stdout.readline()
        assert line, "it ended by itself"
        finals += b'"final":true' in line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, b"Traceback" in err) == (130, False), err


class Terminal:
    """A command in a terminal of 24 lines and 100 columns."""

    def __init__(self, arguments: list[str], url: str) -> None:
        self._fd, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self._process = subprocess.Popen(
            [*COUNCIL, *arguments], env=environment(url, TERM="xterm"), stdin=terminal, stdout=terminal,
            stderr=terminal, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(terminal)
        self.text, self._seen = "", 0

    def press(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def until(self, pattern: str, timeout_s: float = 30.0) -> re.Match[str]:
        """The next place in what is drawn from now on that matches."""
        self._read()
        self._seen = len(self.text)
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.text[self._seen :])):
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {pattern} in {self.text[-400:]!r}"
            self._read(0.05)
        return found

    def _read(self, wait_s: float = 0.0) -> bool:
        while select.select([self._fd], [], [], wait_s)[0]:
            try:
                drawn = os.read(self._fd, 65_536)
            except OSError:
                return False
            self.text += re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", drawn).decode("utf-8", "replace")
            wait_s = 0.0
        return True

    def end(self) -> Outcome | int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + 30
        while self._process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        self._read()
        os.close(self._fd)
        return self._process.wait(1)
