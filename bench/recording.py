"""Recordings: the CPU of the recorder, the size of the file, the speed of replaying and of verifying.

six real producers, 100 tokens/s each --> session --recorder--> CPU
a minute of the same, made here --> file (its size) --verify--> windows/s beside the bare core
                                                    --replay at full speed--> entries/s beside bare XADDs
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from aggregator.core.replay import replayed
from bench.members import PROMPT, TOP_K, drawn_pieces, models_of, token_of
from bench.private_roles import PrivateRoles
from bench.redis_cost import XADD_WRITER, xadds_per_s
from bench.report import Aim, BenchReport, table_of
from bench.usage import UsageMeter
from council.recording.verify import verified
from producers.replay.player import Player
from recordings.opening import replay_opening
from recordings.reading import read_metadata
from recordings.writing import RecordingWriter, about_session
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.entries import Claim, Finished, encode_entry
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
_WARM_UP_S = 2.0
_AIMED_REPLAY, _AIMED_VERIFY, _AIMED_CPU, _AIMED_BYTES = 0.2, 0.8, 0.03, 200
_CAPTION = (
    f"Recorder: its CPU in % of one core while it records {{members}} real producers of {{rate}} tokens/s with "
    f"top-{TOP_K} lists, for {{live:.0f}} s. All else: one recording of {{length}} s of the same, made here. Bytes: of "
    "a file with these messages only, indexes included; slow members write 15 tokens/s. Limit of a token: MEMORY USAGE "
    "of its entry in Redis. Verify: windows per second of CPU time; its limit is the core with the same entries in "
    "memory, in turn with it. Replay: entries/s from the opening to the final frame, computed by an aggregator or as "
    "recorded frames; the limit is XADDs of as many bytes, written by {xadd_writer} in pipelines of {at_once}."
)


def measure(seconds: float) -> BenchReport:
    """Records for min(seconds, 30), then takes about half a minute."""
    with tempfile.TemporaryDirectory(prefix="council-bench-") as name:
        folder = Path(name)
        stream, slow = list(_stream()), list(_stream(_FEW, _SLOW_TOKENS_PER_S))
        path = _write(folder / "bench.mcap", stream)
        slow_bytes, frame_bytes = _frame_bytes(folder, slow), _frame_bytes(folder, stream)
        token_bytes = _token_bytes(folder, stream)
        live_s = min(seconds, _MOST_LIVE_S)
        with PrivateRoles() as roles:
            recorder = _recorder_cpu(roles, folder, live_s)
        with PrivateRoles() as roles:
            bytes_in_redis = _bytes_in_redis(roles, stream)
            xadd_per_s = xadds_per_s(roles, len(stream[-1_000][1]), _AT_ONCE)
            roles.start("aggregator", "aggregator")
            roles.wait_until_ready()
            replay_per_s = asyncio.run(_replay(roles.url, path))
            shown_per_s = asyncio.run(_replay(roles.url, path, frames=True))
        verify_per_s, core_per_s = _verify(path, stream)
    caption = _CAPTION.format(
        members=_MEMBERS, rate=_TOKENS_PER_S, live=live_s, length=_LENGTH_S, at_once=_AT_ONCE, xadd_writer=XADD_WRITER
    )
    table = table_of("Recordings", caption, ("", "measured", "limit", "/ limit"))
    table.add_row("recorder, CPU %", f"{100 * recorder:.2f}", "", "")
    table.add_row(f"a frame of {_MEMBERS} members on disk, bytes", f"{frame_bytes:.0f}", "", "")
    table.add_row(f"a frame of {_FEW} slow members on disk, bytes", f"{slow_bytes:.0f}", "", "")
    verify, replay = verify_per_s / core_per_s, replay_per_s / xadd_per_s
    for what, measured, limit in (
        ("a token on disk, bytes", token_bytes, bytes_in_redis),
        ("verify, windows/s of CPU time", verify_per_s, core_per_s),
        ("replay, entries/s", replay_per_s, xadd_per_s),
        ("replay of frames, entries/s", shown_per_s, xadd_per_s),
    ):
        table.add_row(what, f"{measured:,.0f}", f"{limit:,.0f}", f"{measured / limit:.2f}")
    return BenchReport(
        (table,),
        (
            Aim(f"recorder under {_AIMED_CPU:.0%} of a core", f"{recorder:.2%}", recorder < _AIMED_CPU),
            Aim(
                f"a frame of {_FEW} slow members under {_AIMED_BYTES} bytes",
                f"{slow_bytes:.0f} bytes",
                slow_bytes < _AIMED_BYTES,
            ),
            Aim(
                "a token on disk no larger than in Redis",
                f"{token_bytes / bytes_in_redis:.2f} times",
                token_bytes <= bytes_in_redis,
            ),
            Aim(f"verify at {_AIMED_VERIFY:g} of the core's speed or more", f"{verify:.2f}", verify >= _AIMED_VERIFY),
            Aim(
                f"replay at least {_AIMED_REPLAY:g} times as fast as bare XADDs",
                f"{replay:.2f}",
                replay >= _AIMED_REPLAY,
            ),
        ),
    )


def _stream(member_count: int = _MEMBERS, tokens_per_s: int = _TOKENS_PER_S) -> Iterator[tuple[str, bytes]]:
    """A token stream of members that write steadily, and finish."""
    count = tokens_per_s * _LENGTH_S
    members = tuple(map(Member, models_of(member_count)))
    opening = Opening(
        ENTRY_VERSION, new_session_id(), PROMPT, members, sampling=Sampling(max_tokens=count),
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
        token = token_of(piece, member, claims[member], seq, at_ns)
        yield f"{at_ns // NS_PER_MS}-{number + 10}", encode_entry(token)
    at_ns = began_ns + _LENGTH_S * NS_PER_S
    for member, claim in enumerate(claims):
        yield f"{at_ns // NS_PER_MS + 1}-{member}", encode_entry(Finished(member, claim, at_ns, count, "length"))


def _write(path: Path, stream: list[tuple[str, bytes]], *, frames: bool = True, tokens: bool = True) -> Path:
    """Writes the stream as the recorder does; without `frames` or without `tokens` only the other of the two."""
    opening = msgspec.msgpack.decode(stream[0][1], type=Opening)
    about, written = about_session(opening, stream[0][0], "0.0.0"), 0
    origin_ns = int(about.origin_ns)
    with path.open("wb") as file:
        writer = RecordingWriter(file, about)
        for closed in replayed(stream):
            window = closed.frame.window_index
            while tokens and written < len(stream) and _window(origin_ns, stream[written][0]) <= window:
                writer.add_entry(*stream[written])
                written += 1
            if frames:
                writer.add_frame(closed.frame)
            if window % 45 == 44:
                writer.flush()
        writer.finish()
    return path


def _window(origin_ns: int, entry_id: str) -> int:
    return window_of_entry(origin_ns, entry_ms(entry_id))


def _frame_bytes(folder: Path, stream: list[tuple[str, bytes]]) -> float:
    """The bytes of a frame on disk."""
    path = _write(folder / "frames.mcap", stream, tokens=False)
    return path.stat().st_size / read_metadata(path)[1].frames


def _token_bytes(folder: Path, stream: list[tuple[str, bytes]]) -> float:
    """The bytes of an entry on disk."""
    return _write(folder / "tokens.mcap", stream, frames=False).stat().st_size / len(stream)


def _bytes_in_redis(roles: PrivateRoles, stream: list[tuple[str, bytes]]) -> float:
    """The memory of an entry in Redis."""
    key = keys.tokens("bench")
    for start in range(0, len(stream), _AT_ONCE):
        roles.pipe.run([("XADD", key, entry_id, "e", raw) for entry_id, raw in stream[start : start + _AT_ONCE]])
    used, _ = roles.pipe.run([("MEMORY", "USAGE", key, "SAMPLES", 0), ("UNLINK", key)])
    return int(used) / len(stream)


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
            raise RuntimeError("the replay did not end")
        return report.entries / took_s
    finally:
        await pipe.close()


def _verify(path: Path, stream: list[tuple[str, bytes]]) -> tuple[float, float]:
    """(windows per CPU second of verify, of the core alone), the best of three each, in turn."""
    verify_s, core_s, windows = list[float](), list[float](), 0
    for _ in range(3):
        began = time.process_time()
        windows = sum(1 for _ in replayed(stream))
        core_s.append(time.process_time() - began)
        began = time.process_time()
        verified(path)
        verify_s.append(time.process_time() - began)
    return windows / min(verify_s), windows / min(core_s)


def _recorder_cpu(roles: PrivateRoles, folder: Path, seconds: float) -> float:
    """The recorder's CPU as a share of one core while it records a session of six fast members."""
    models = models_of(_MEMBERS)
    for model in models:
        roles.start(model, "bench.steady_producer", model, "--tokens-per-s", str(_TOKENS_PER_S))
    roles.start("aggregator", "aggregator")
    roles.start("decipher", "consumers.decipher")
    roles.start("recorder", "consumers.recorder", "--record", "all", "--recordings", str(folder / "library"))
    roles.wait_until_ready()
    opening, _ = roles.open_session(models)
    time.sleep(_WARM_UP_S)
    meter = UsageMeter({"recorder": roles.pids["recorder"]})
    time.sleep(seconds)
    used = meter.read()["recorder"].cpu
    roles.check()
    roles.cancel_session(opening.session)
    return used
