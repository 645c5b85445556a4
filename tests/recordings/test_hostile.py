"""For any file, a command that reads recordings ends soon, with one sentence and bounded memory.

a file of another kind, another tool or a later version, or made to do harm --> exit 1 or 2, a sentence, no other effect
"""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from mcap.records import Chunk
from mcap.writer import CompressionType, Writer

from aggregator.core.replay import replayed
from aggregator.core.session import Session
from council.recording.verify import verified
from recordings import repair
from recordings.contents import ABOUT, FRAMES, PROFILE, SESSION, metadata_of
from recordings.parts import part_of
from recordings.plain import plain
from recordings.reading import RecordingReader
from recordings.records import MOST_RECORD_BYTES, record_stream, unpacked
from recordings.repair import salvage
from schemas.entries import Claim, Token, decode_entry, encode_entry
from schemas.errors import CouncilError, Malformed, Refused, Unavailable
from schemas.sessions import Opening
from tests.golden import golden
from tests.support.council_command import COUNCIL, environment
from tests.support.council_in_process import council
from tests.support.recording_files import NAME, about_of, frames_of, recording, repeated, write_recording

MAGIC = b"\x89MCAP0\r\n"
# The address space of a process whose memory is limited: the interpreter and its libraries take half of it.
MOST_ADDRESSES = 1_000_000_000
READERS = (("verify",), ("inspect",), ("export", "--format", "jsonl", "--what", "frames"))


def record(opcode: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("<BQ", opcode, len(body) if length is None else length) + body


def begun() -> bytes:
    """A recording's header and metadata."""
    file = io.BytesIO()
    writer = Writer(file)
    writer.start(profile=PROFILE, library="test")
    writer.add_metadata(ABOUT, metadata_of(about_of(golden(NAME).entries)))
    return file.getvalue()


def chunk(data: bytes, size: int, crc: int = 0, compression: bytes = b"zstd") -> bytes:
    head = struct.pack("<QQQI", 0, 0, size, crc) + struct.pack("<I", len(compression)) + compression
    return record(6, head + struct.pack("<Q", len(data)) + data)


def bomb(*, with_size: bool, claimed: int) -> bytes:
    """A chunk of 200 MB of zeros in a few kilobytes."""
    packing = zstandard.ZstdCompressor(write_content_size=with_size)
    if with_size:
        return chunk(packing.compress(bytes(200_000_000)), claimed)
    packed = packing.compressobj()
    return chunk(b"".join([*(packed.compress(bytes(1_000_000)) for _ in range(200)), packed.flush()]), claimed)


def small_bomb() -> bytes:
    """A sound chunk of 16 MB in half a kilobyte, with a record of an unknown kind in it."""
    data = record(0x90, bytes(16_000_000))
    return chunk(zstandard.compress(data), len(data), zlib.crc32(data))


def false_frame_header() -> bytes:
    """A frame of zstd whose header claims 2**62 bytes."""
    return b"\x28\xb5\x2f\xfd" + b"\xe0" + struct.pack("<Q", 2**62) + b"\x01\x00\x00"


def other_tools() -> bytes:
    file = io.BytesIO()
    writer = Writer(file)
    writer.start(profile="ros2", library="test")
    writer.finish()
    return file.getvalue()


def newer() -> bytes:
    file = io.BytesIO()
    writer = Writer(file)
    writer.start(profile=PROFILE, library="test")
    writer.add_metadata(ABOUT, {**metadata_of(about_of(golden(NAME).entries)), "recording_version": "7"})
    writer.finish()
    return file.getvalue()


def messages(topic: str, *raws: bytes) -> bytes:
    """A recording with these messages on one channel."""
    file = io.BytesIO()
    writer = Writer(file, compression=CompressionType.ZSTD, enable_data_crcs=True)
    writer.start(profile=PROFILE, library="test")
    writer.add_metadata(ABOUT, metadata_of(about_of(golden(NAME).entries)))
    channel = writer.register_channel(topic, "json", 0)
    for raw in raws:
        writer.add_message(channel, 0, raw, 0)
    writer.add_metadata("council.summary", {})
    writer.finish()
    return file.getvalue()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"Dear council,\n" * 100,
    "magic alone": lambda: MAGIC,
    "magic twice": lambda: MAGIC * 2,
    "another tool's": other_tools,
    "newer": newer,
    "metadata alone": begun,
    "a record of 2**63 bytes": lambda: begun() + record(6, b"x" * 100, 2**63),
    "a record of 1 GB in a small file": lambda: begun() + record(6, b"x" * 100, 10**9),
    "a chunk of 2**60 bytes": lambda: begun() + chunk(b"x" * 100, 2**60),
    "a false chunk of 30 MB": lambda: begun() + chunk(b"x" * 100, 30_000_000),
    "a bomb that states its size": lambda: begun() + bomb(with_size=True, claimed=200_000_000),
    "a bomb that states a false size": lambda: begun() + bomb(with_size=True, claimed=1_000),
    "a bomb without a size": lambda: begun() + bomb(with_size=False, claimed=1_000),
    "a frame of zstd that states a false size": lambda: begun() + chunk(false_frame_header(), 1_000),
    "bombs one after another": lambda: begun() + 20 * small_bomb(),
    "an unknown compression": lambda: begun() + chunk(b"x", 1, compression=b"lzma"),
    "a message longer than its chunk": lambda: begun() + chunk(
        record(5, b"x" * 30, 2**40), 39, zlib.crc32(record(5, b"x" * 30, 2**40)), b""
    ),
    "deep JSON as a frame": lambda: messages(FRAMES, b'{"window_index":0,"a":' + b"[" * 200_000 + b"]" * 200_000),
    "deep JSON as an entry": lambda: messages(SESSION, b"[" * 200_000),
    "an entry without an id": lambda: messages(SESSION, b'{"id":"x","entry":""}'),
    "an id of a million digits": lambda: messages(SESSION, b'{"id":"' + b"9" * 10**6 + b'-0","entry":""}'),
    "a frame of another kind": lambda: messages(FRAMES, b'{"window_index":"zero"}', b"[]"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_file_breaks_a_command(name: str, tmp_path: Path) -> None:
    path, out = tmp_path / "hostile.mcap", tmp_path / "out.mcap"
    path.write_bytes(HOSTILE[name]())
    commands = [[command[0], str(path), *command[1:]] for command in READERS]
    commands += [["diff", str(path), str(path)], ["recover", str(path), "-o", str(out)]]
    commands.append(["plot", str(path), "-o", str(tmp_path / "out.svg")])
    for command in commands:
        done = council(*command)
        assert done.code in (1, 2), (command, done.said)
        assert done.said.startswith("council: ")
        assert done.said.count("\n") == 1
    assert os.listdir(tmp_path) == [path.name]


def test_a_recording_without_messages_is_read_and_does_not_verify(tmp_path: Path) -> None:
    path = tmp_path / "nothing.mcap"
    path.write_bytes(messages(SESSION))
    codes = {command[0]: council(command[0], str(path), *command[1:]).code for command in READERS}
    assert codes == {"verify": 1, "inspect": 0, "export": 0}
    assert council("recover", str(path), "-o", str(tmp_path / "out.mcap")).code == 2
    assert council("plot", str(path), "-o", str(tmp_path / "out.png")).code == 1
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["a folder", "a pipe", "/dev/zero", "a loop", "a name with a zero"])
def test_a_path_that_is_not_a_regular_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if name == "a folder":
        path.mkdir()
    elif name == "a pipe":
        os.mkfifo(path)
    elif name == "a loop":
        path.symlink_to(path)
    written = str(path) if not name.startswith("/") else name
    if name == "a name with a zero":
        with pytest.raises(CouncilError):
            RecordingReader(tmp_path / "a\0b")
        return
    for command in READERS:
        council(command[0], written, *command[1:]).assert_refused("council: ")


def limited(*arguments: str, addresses: int = MOST_ADDRESSES) -> subprocess.CompletedProcess[str]:
    """A command with limited memory."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({addresses}, {addresses}));"
        "from council.command.cli import run; run()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment(OPENBLAS_NUM_THREADS="1"), capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in HOSTILE if "bomb" in name or "bytes" in name or "MB" in name])
def test_a_file_that_is_made_to_fill_memory_does_not(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.mcap"
    path.write_bytes(HOSTILE[name]())
    for arguments in (["verify", str(path)], ["recover", str(path), "-o", str(tmp_path / "out.mcap")]):
        done = limited(*arguments)
        assert done.returncode in (1, 2), done.stderr
        assert done.stderr.startswith("council: ")
        assert "MemoryError" not in done.stderr


@pytest.mark.parametrize("with_size", [True, False])
def test_a_chunk_with_a_false_size_is_refused_before_it_is_unpacked(with_size: bool) -> None:
    packed = record_stream(bomb(with_size=with_size, claimed=1_000)[9:])
    tracemalloc.start()
    with pytest.raises((Malformed, zstandard.ZstdError)):
        unpacked(Chunk.read(packed))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    if with_size:
        with pytest.raises(Malformed, match="stated size"):
            unpacked(Chunk.read(record_stream(bomb(with_size=True, claimed=1_000)[9:])))


def test_false_beginnings_of_chunks_do_not_take_the_time_of_their_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50,000 beginnings, each of which has the length of the rest of the file: reading that each time would take
    hours."""
    head = struct.pack("<QQQI", 0, 0, 1_000, 1) + b"\x04\x00\x00\x00zstd"
    size = len(head) + 17
    count = 50_000
    raw = bytearray(begun())
    raw += record(6, b"x" * 40, 2**50)
    for number in range(count):
        left = (count - number) * size - 9
        raw += struct.pack("<BQ", 6, left) + head + struct.pack("<Q", left - len(head) - 8)
    path = tmp_path / "many.mcap"
    path.write_bytes(raw)
    tried = list[int]()
    real = repair._items_of

    def counted(opcode: int, body: bytes, *rest: Any) -> Any:
        tried.append(len(body))
        return real(opcode, body, *rest)

    monkeypatch.setattr(repair, "_items_of", counted)
    assert salvage(path).frames == 0
    assert sum(tried) < 20 * len(raw) + 2 * MOST_RECORD_BYTES


def _peak(*arguments: str) -> int:
    """The most memory that a command had, in KiB."""
    code = (
        "import resource, sys\nfrom council.command.cli import run\ntry:\n    run()\nexcept SystemExit:\n    pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, check=True, timeout=300,
    )  # fmt: skip
    return int(done.stderr.split()[-1])


@pytest.mark.parametrize(
    "command",
    [
        ("verify",), ("inspect",), ("export", "--format", "csv", "--what", "frames"),
        ("export", "--format", "otlp", "--what", "frames"),
    ],
)  # fmt: skip
def test_a_long_recording_takes_no_more_memory_than_a_short_one(command: tuple[str, ...], tmp_path: Path) -> None:
    stream = golden(NAME).entries
    paths = list[Path]()
    for times in (8, 48):
        long = repeated(stream, times)
        frames = [closed.frame for closed in replayed(long)]
        paths.append(write_recording(tmp_path / f"{times}.mcap", long, frames))
    short, long_one = (_peak(command[0], str(path), *command[1:]) for path in paths)
    # 40 more repetitions are 9 MB of messages.
    assert long_one < short + 4_000


def test_entries_that_no_producer_writes_only_make_the_verification_fail(tmp_path: Path) -> None:
    opening = decode_entry(golden(NAME).entries[0][1])
    assert isinstance(opening, Opening)
    opened = golden(NAME).entries[0][0]
    ms = int(opened.partition("-")[0])
    huge = Token(0, f"{ms + 1}-0", 0, "answer", "x", 2**63 - 1, -(2**63), -1e308, "real")
    for number, change in enumerate(
        (
            msgspec.structs.replace(opening.profile, tps_max=0.0, stall_ms=0.0, half_life_ms=0.0),
            msgspec.structs.replace(opening.profile, smoothing=1e308, ceil_ms=-1.0),
        )
    ):
        hostile = msgspec.structs.replace(opening, profile=change)
        stream = [(opened, encode_entry(hostile)), (f"{ms + 1}-0", encode_entry(Claim(0, 0))),
                  (f"{ms + 40}-0", encode_entry(huge)), (f"{ms + 10**12}-0", b"\x00")]  # fmt: skip
        path = write_recording(tmp_path / f"{number}.mcap", stream, frames_of(NAME)[:30])
        assert council("verify", str(path)).code == 1


def test_a_bug_of_the_core_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    path = recording(tmp_path)
    for name in ("close", "__init__"):
        with monkeypatch.context() as patch:
            patch.setattr(Session, name, fail)
            done = council("verify", str(path))
        assert (done.code, done.out) == (1, "")
        done.assert_said("the core", "ZeroDivisionError")


def test_control_characters_never_reach_a_terminal(tmp_path: Path) -> None:
    """A name and a prompt that would clear the screen, set its title, and write from right to left."""
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eevil\r\n\x00"
    stream = list(golden(NAME).entries)
    opening = decode_entry(stream[0][1])
    assert isinstance(opening, Opening)
    members = (msgspec.structs.replace(opening.members[0], name=evil), *opening.members[1:])
    stream[0] = stream[0][0], encode_entry(msgspec.structs.replace(opening, members=members, prompt=evil))
    frames = [closed.frame for closed in replayed(stream)]
    path = write_recording(tmp_path / "evil.mcap", stream, frames, reason=evil)
    strange = tmp_path / "\x1b[31mred.mcap"
    strange.write_bytes(b"nothing")
    other = recording(tmp_path)
    for arguments in (
        ["inspect", str(path)], ["inspect", str(path), "--json"], ["diff", str(path), str(other)],
        ["export", str(path), "--format", "csv"], ["export", str(path), "--format", "jsonl"],
        ["export", str(path), "--format", "csv", "--what", "frames"], ["verify", str(strange)],
    ):  # fmt: skip
        written = in_terminal(*arguments)
        assert written.strip()
        assert not {*written} & {*map(chr, (*range(0x0A), *range(0x0B, 0x0D), *range(0x0E, 0x20), *range(0x7F, 0xA0)))}
        assert "\u202e" not in written


def in_terminal(*arguments: str) -> str:
    """What a command writes to its terminal, without the bar of progress."""
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [*COUNCIL, *arguments], env=environment(TERM="dumb"), stdout=terminal, stderr=terminal, stdin=terminal
    ) as process:
        os.close(terminal)
        written = b""
        with contextlib.suppress(OSError):
            while select.select([controller], [], [], 60)[0]:
                if not (read := os.read(controller, 65_536)):
                    break
                written += read
        process.wait(30)
    os.close(controller)
    return written.decode()


def test_plain_text_is_one_line_without_control_characters() -> None:
    assert plain("a\x1b[31m\nb\x9bc\u202ed\ud800") == "a [31m b cd\ufffd"
    assert plain("日本語 🎉 é") == "日本語 🎉 é"


def test_an_uncompressed_file_of_another_tool_is_read_like_the_councils(tmp_path: Path) -> None:
    """`mcap compress --compression none`, and files without chunks, have the same messages."""
    path, other = recording(tmp_path), tmp_path / "other.mcap"
    with RecordingReader(path) as reader:
        items, about = list(reader.items()), reader.about
    summary = reader.summary
    assert summary is not None
    with other.open("wb") as file:
        writer = Writer(file, use_chunking=False)
        writer.start(profile=PROFILE, library="other")
        writer.add_metadata(ABOUT, metadata_of(about))
        channels = {topic: writer.register_channel(topic, "json", 0) for topic in {item.topic for item in items}}
        for item in items:
            writer.add_message(channels[item.topic], item.log_ns, item.data, item.log_ns)
        writer.add_metadata("council.summary", metadata_of(summary))
        writer.finish()
    assert verified(other).is_right


def test_a_part_is_deleted_after_any_error_and_a_file_that_was_created_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def interrupted() -> None:
        with part_of(path) as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    def overtaken() -> None:
        with part_of(path) as part:
            part.write_bytes(b"mine")
            path.write_bytes(b"theirs")

    def full() -> None:
        with part_of(path, replaces=True):
            raise OSError(28, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(Refused, match="exists already"):
        overtaken()
    with pytest.raises(Unavailable, match="No space"):
        full()
    assert (os.listdir(tmp_path), path.read_bytes()) == ([path.name], b"theirs")
