"""Recordings: what recording costs, how large the file is, how fast it is replayed and verified.

six real producers, 100 tokens/s each --> session --recorder (its CPU)--> file (its size)
a minute of the same, made here --> file --verify--> windows/s beside the bare core
                                         --replay as fast as possible--> tokens/s beside redis-benchmark's XADD
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from aggregator.core.replay import replayed
from bench.report import Aim, BenchReport, table_of
from bench.speech import drawn_pieces
from bench.stage import Stage
from bench.usage import UsageMeter
from council.recording.verify import verified
from producers.replay.player import Player
from recordings.opening import replay_opening
from recordings.reading import read_metadata
from recordings.writing import RecordingWriter, about_session
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.entries import Claim, Finished, Token, encode_entry, pack_top
from schemas.grid import NS_PER_MS, NS_PER_S, next_grid_point_ns, window_of_entry
from schemas.keys import entry_ms
from schemas.rules.tiers import PROFILES
from schemas.sessions import ENTRY_VERSION, Member, Opening, Sampling
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, new_session_id, open_session

_MEMBERS, _TOKENS_PER_S, _LENGTH_S = 6, 100, 60
_FEW, _SLOW_TOKENS_PER_S = 3, 15
_MOST_LIVE_S = 30.0
_OPENED_MS = 1_700_000_000_000
_AT_ONCE = 256
_BENCHMARKED = 200_192
_AIMED_REPLAY, _AIMED_VERIFY, _AIMED_CPU, _AIMED_BYTES = 0.2, 0.8, 0.03, 200
_CAPTION = (
    "The recorder beside {members} real producers of {rate} tokens/s with top-20 lists each, for {live:.0f} s. The "
    "rest with one recording of {length} s of the same, made here. Bytes on disk: of a file with these messages alone, "
    "indexes included; slow: three members of 15 tokens/s. Redis: MEMORY USAGE of the token stream of the same "
    "entries. Verify: windows/s by CPU time, the bare core the same over entries in memory, by turns. Replay: "
    "entries/s of time, through Redis and an aggregator to the final frame, and beside it the frames as they are; the "
    "limit is redis-benchmark's XADD of as many bytes, one client, pipelines of {at_once}, before it."
)


def measure(seconds: float) -> BenchReport:
    """Records for min(seconds, 30), then takes about half a minute."""
    with tempfile.TemporaryDirectory(prefix="council-bench-") as folder:
        stream = list(_stream())
        path = _write(Path(folder) / "bench.mcap", stream)
        slow = list(_stream(_FEW, _SLOW_TOKENS_PER_S))
        slow_bytes, frame_bytes = _frame_bytes(Path(folder), slow), _frame_bytes(Path(folder), stream)
        token_bytes = _token_bytes(Path(folder), stream)
        live_s = min(seconds, _MOST_LIVE_S)
        with Stage() as stage:
            recorder = _recorder_cpu(stage, Path(folder), live_s)
        with Stage() as stage:
            in_redis = _bytes_in_redis(stage, stream)
            xadd_per_s = _xadd_per_s(stage, len(stream[-1_000][1]))
            stage.start("aggregator", "aggregator")
            stage.wait_until_ready()
            replay_per_s = asyncio.run(_replay(stage.url, path))
            shown_per_s = asyncio.run(_replay(stage.url, path, frames=True))
        verify_per_s, core_per_s = _verify(path, stream)
    caption = _CAPTION.format(members=_MEMBERS, rate=_TOKENS_PER_S, live=live_s, length=_LENGTH_S, at_once=_AT_ONCE)
    table = table_of("Recordings", caption, ("what", "measured", "limit", "of the limit"))
    table.add_row("recorder, CPU of a core", f"{recorder:.2%}", "", "")
    table.add_row("a frame of six members on disk, bytes", f"{frame_bytes:.0f}", "", "")
    table.add_row("a frame of three slow members on disk, bytes", f"{slow_bytes:.0f}", "", "")
    verify, replay = verify_per_s / core_per_s, replay_per_s / xadd_per_s
    for name, measured, limit in (
        ("a token on disk, bytes", token_bytes, in_redis),
        ("verify, windows/s", verify_per_s, core_per_s),
        ("replay, entries/s", replay_per_s, xadd_per_s),
        ("replay of frames, entries/s", shown_per_s, xadd_per_s),
    ):
        table.add_row(name, f"{measured:.0f}", f"{limit:.0f}", f"{measured / limit:.2f}")
    return BenchReport(
        (table,),
        (
            Aim(f"recorder under {_AIMED_CPU:.0%} of a core", f"{recorder:.2%}", recorder < _AIMED_CPU),
            Aim(f"a frame of three under {_AIMED_BYTES} bytes", f"{slow_bytes:.0f}", slow_bytes < _AIMED_BYTES),
            Aim("a token no larger than in Redis", f"{token_bytes / in_redis:.2f}", token_bytes <= in_redis),
            Aim(f"verify at {_AIMED_VERIFY:g} of the bare core", f"{verify:.2f}", verify >= _AIMED_VERIFY),
            Aim(f"replay at {_AIMED_REPLAY:g} of bare XADD", f"{replay:.2f}", replay >= _AIMED_REPLAY),
        ),
    )


def _stream(member_count: int = _MEMBERS, tokens_per_s: int = _TOKENS_PER_S) -> Iterator[tuple[str, bytes]]:
    """A token stream of members that write steadily, and finish."""
    count = tokens_per_s * _LENGTH_S
    members = tuple(Member(f"bench:member-{number}") for number in range(1, member_count + 1))
    opening = Opening(
        ENTRY_VERSION, new_session_id(), "How long does it take?", members, sampling=Sampling(max_tokens=count),
        profile=PROFILES["studio"],
    )  # fmt: skip
    yield f"{_OPENED_MS}-0", encode_entry(opening)
    claims = [f"{_OPENED_MS}-{member + 1}" for member in range(member_count)]
    began_ns = next_grid_point_ns(_OPENED_MS * NS_PER_MS) + NS_PER_MS
    for member, claim in enumerate(claims):
        yield claim, encode_entry(Claim(member, began_ns))
    pieces = [drawn_pieces(member) for member in range(member_count)]
    for number in range(count * member_count):
        seq, member = divmod(number, member_count)
        at_ns = began_ns + number * NS_PER_S // (tokens_per_s * member_count)
        piece = pieces[member][seq % len(pieces[member])]
        token = Token(
            member, claims[member], seq, "answer", piece.text, at_ns, at_ns, piece.logprob, piece.quality, b"",
            pack_top(list(piece.top)),
        )  # fmt: skip
        yield f"{at_ns // NS_PER_MS}-{number + 10}", encode_entry(token)
    at_ns = began_ns + _LENGTH_S * NS_PER_S
    for member, claim in enumerate(claims):
        yield f"{at_ns // NS_PER_MS + 1}-{member}", encode_entry(Finished(member, claim, at_ns, count, "length"))


def _write(path: Path, stream: list[tuple[str, bytes]], *, frames: bool = True, tokens: bool = True) -> Path:
    """A recording of the stream, as the recorder writes it, or a part of one."""
    opening = msgspec.msgpack.decode(stream[0][1], type=Opening)
    about, at = about_session(opening, stream[0][0], "0.0.0"), 0
    origin_ns = int(about.origin_ns)
    with path.open("wb") as file:
        writer = RecordingWriter(file, about)
        for closed in replayed(stream):
            window = closed.frame.window_index
            while tokens and at < len(stream) and window_of_entry(origin_ns, entry_ms(stream[at][0])) <= window:
                writer.add_entry(*stream[at])
                at += 1
            if frames:
                writer.add_frame(closed.frame)
            if window % 45 == 44:
                writer.flush()
        writer.finish()
    return path


def _frame_bytes(folder: Path, stream: list[tuple[str, bytes]]) -> float:
    """Bytes on disk of a frame."""
    path = _write(folder / "frames.mcap", stream, tokens=False)
    return path.stat().st_size / read_metadata(path)[1].frames


def _token_bytes(folder: Path, stream: list[tuple[str, bytes]]) -> float:
    """Bytes on disk of an entry."""
    return _write(folder / "tokens.mcap", stream, frames=False).stat().st_size / len(stream)


def _bytes_in_redis(stage: Stage, stream: list[tuple[str, bytes]]) -> float:
    """Of an entry."""
    key = keys.tokens("bench")
    for start in range(0, len(stream), _AT_ONCE):
        stage.pipe.run([("XADD", key, entry_id, "e", raw) for entry_id, raw in stream[start : start + _AT_ONCE]])
    used, _ = stage.pipe.run([("MEMORY", "USAGE", key, "SAMPLES", 0), ("UNLINK", key)])
    return int(used) / len(stream)


def _xadd_per_s(stage: Stage, entry_bytes: int) -> float:
    """As many entries a second as Redis takes of one client."""
    program = shutil.which("redis-benchmark")
    if program is None:
        command = ("XADD", "bench:xadd", "*", "e", b"x" * entry_bytes)
        began = time.monotonic()
        for _ in range(_BENCHMARKED // _AT_ONCE):
            stage.pipe.run([command] * _AT_ONCE)
        per_s = _BENCHMARKED / (time.monotonic() - began)
    else:
        where = ["-s", stage.url.removeprefix("unix://"), "-c", "1", "-P", str(_AT_ONCE), "-n", str(_BENCHMARKED)]
        words = [program, *where, "--csv", "XADD", "bench:xadd", "*", "e", "x" * entry_bytes]
        out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        per_s = float(out.strip().splitlines()[-1].split('","')[1].strip('"'))
    stage.pipe.run([("UNLINK", "bench:xadd")])
    return per_s


async def _replay(url: str, path: Path, *, frames: bool = False) -> float:
    """Entries a second, from the opening to the final frame."""
    pipe = AsyncPipe(url)
    try:
        opened, opening = replay_opening(path, new_session_id(), frames=frames)
        await open_session(pipe, opening, opened)
        began = time.monotonic()
        report = await Player(pipe, path, opening, RedisPresence(Log(50)), rate=0.0).run()
        took_s = time.monotonic() - began
        state = await find_session(pipe, opening.session)
        if state.status != "ended":
            raise RuntimeError("the replay did not come to its end")
        return report.entries / took_s
    finally:
        await pipe.close()


def _verify(path: Path, stream: list[tuple[str, bytes]]) -> tuple[float, float]:
    """(windows a second of CPU time of verify, of the bare core), the best of three each, by turns."""
    verify_s, core_s, windows = list[float](), list[float](), 0
    for _ in range(3):
        began = time.process_time()
        windows = sum(1 for _ in replayed(stream))
        core_s.append(time.process_time() - began)
        began = time.process_time()
        verified(path)
        verify_s.append(time.process_time() - began)
    return windows / min(verify_s), windows / min(core_s)


def _recorder_cpu(stage: Stage, folder: Path, seconds: float) -> float:
    """The recorder's share of a core while it records a session of the fastest council."""
    models = tuple(f"bench:steady-{number}" for number in range(_MEMBERS))
    for model in models:
        stage.start(model, "bench.speaker", model, "--tokens-per-s", str(_TOKENS_PER_S))
    for name, words in (("aggregator", ["aggregator"]), ("decipher", ["consumers.decipher"])):
        stage.start(name, *words)
    stage.start("recorder", "consumers.recorder", "--record", "all", "--recordings", str(folder / "library"))
    stage.wait_until_ready()
    opening, _ = stage.open_session(models)
    time.sleep(2.0)
    meter = UsageMeter({"recorder": stage.pids["recorder"]})
    time.sleep(seconds)
    used = meter.read()["recorder"].cpu
    stage.check_roles()
    stage.cancel_session(opening.session)
    return used
