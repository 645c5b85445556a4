"""`council inspect`: the content of a recording, counted from all of its messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from recordings.contents import About, RecordedEntry
from recordings.plain import plain, short
from recordings.reading import RecordingReader
from recordings.summing import Summing
from schemas.errors import Malformed
from schemas.frame_json import frame_of_json
from schemas.frames import Frame
from schemas.grid import FRAME_RATE_HZ
from schemas.rules.partings import estimated_of, times
from schemas.sessions import WITHOUT_TEXT

# A session falls at most once for each tier below its own.
_MOST_FALLS = 16
_entry_decoder = msgspec.json.Decoder(RecordedEntry)


class _Counts:
    """The counts of a file that is read."""

    def __init__(self, about: About) -> None:
        self.summing = Summing(len(about.members))
        self.messages: dict[str, int] = {}
        self.entries = [0] * len(about.members)
        self.first_token: list[int | None] = [None] * len(about.members)
        self.last_token: list[int | None] = [None] * len(about.members)
        self.falls = list[tuple[int, str, str]]()
        self.last: Frame | None = None

    def add_frame(self, frame: Frame) -> None:
        self.summing.add_frame(frame)
        for token in frame.tokens:
            if 0 <= token.member < len(self.first_token):
                if self.first_token[token.member] is None:
                    self.first_token[token.member] = frame.window_index
                self.last_token[token.member] = frame.window_index
        if self.last is not None and self.last.tier != frame.tier and len(self.falls) < _MOST_FALLS:
            self.falls.append((frame.window_index, self.last.tier, frame.tier))
        self.last = frame

    def rate(self, member: int, tokens: int) -> float | None:
        """Tokens per second between the windows of the first and the last token; None where that is not known."""
        first, last = self.first_token[member], self.last_token[member]
        if first is None or last is None or last <= first:
            return None
        return round((tokens - 1) * FRAME_RATE_HZ / (last - first), 2)


def inspected(path: Path, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """The content of the file, for JSON. Raises Refused, Damage; Malformed where a message does not decode."""
    with RecordingReader(path) as reader:
        about, counts = reader.about, _Counts(reader.about)
        for item in reader.items():
            bytes_of, topic = counts.summing.bytes_of, item.topic
            bytes_of[topic] = bytes_of.get(topic, 0) + len(item.data)
            counts.messages[topic] = counts.messages.get(topic, 0) + 1
            if item.kind == "frame":
                counts.add_frame(frame_of_json(item.raw))
            elif item.kind == "entry":
                counts.summing.entries += 1
                member = _member_of(item.data)
                if member is not None and 0 <= member < len(counts.entries):
                    counts.entries[member] += 1
            elif item.kind == "event":
                counts.summing.events += 1
            if progress:
                progress(reader.at_bytes)
        reason = reader.summary.reason if reader.summary else ""
        return _described(about, counts, reader.size_bytes, reason)


def _member_of(data: bytes) -> int | None:
    try:
        return _entry_decoder.decode(data).member
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"an entry does not decode: {error}") from None


def _described(about: About, counts: _Counts, size_bytes: int, reason: str) -> dict[str, Any]:
    found = counts.summing.summary(reason)
    last = counts.last
    windows = found.last_window - found.first_window + 1 if found.frames else 0
    bytes_of = found.bytes_of
    total = sum(bytes_of.values())
    frame_bytes = bytes_of.get("/frames", 0)
    members = [
        {
            "name": member.name,
            "model": member.model,
            "weight": member.weight,
            "remote": member.remote,
            "temperature": member.temperature,
            "seed": member.seed,
            "max_tokens": member.max_tokens,
            "entries": counts.entries[index],
            "tokens": found.tokens[index],
            "tokens_per_s": counts.rate(index, found.tokens[index]),
            "state": last.members[index].state if last and index < len(last.members) else None,
            "reason": last.members[index].reason if last and index < len(last.members) else None,
        }
        for index, member in enumerate(about.members)
    ]
    return {
        "session": about.session,
        "question": about.prompt,
        "system": about.system,
        "prefix": about.prefix,
        "parent": about.parent or None,
        "opened_ms": about.opened_ms,
        "members": members,
        "options": {
            "temperature": about.temperature,
            "max_tokens": about.max_tokens,
            "seed": about.seed,
            "sync": about.sync,
            "weighting": about.weighting,
            "tier": about.tier,
        },
        "windows": windows,
        "length_s": round(windows / FRAME_RATE_HZ, 3),
        "first_window": found.first_window,
        "last_window": found.last_window,
        "frames": found.frames,
        "entries": found.entries,
        "events": found.events,
        "diverged_at_bytes": found.diverged_at_bytes,
        "diverged_at_s": None if found.diverged_window is None else round(found.diverged_window / FRAME_RATE_HZ, 3),
        "mean_agreement": found.mean_agreement,
        "late": found.late,
        "duplicates": found.duplicates,
        "dead_letters": found.dead_letters,
        "superseded": found.superseded,
        "partings": found.partings,
        "estimates": found.estimates,
        "tier_falls": [{"window": window, "from": before, "to": after} for window, before, after in counts.falls],
        "final": found.final,
        "ended": _ending(found.final, reason),
        "channels": [
            {"topic": topic, "messages": count, "bytes": bytes_of[topic]} for topic, count in counts.messages.items()
        ],
        "size_bytes": size_bytes,
        # All channels are compressed together: the share of a channel is estimated from its bytes.
        "disk_bytes_per_frame": round(size_bytes * frame_bytes / total / found.frames, 1) if found.frames else None,
        "text": about.text,
        "gaps": [list(gap) for gap in about.gaps],
        "versions": {
            "council": about.council_version,
            "recording": about.recording_version,
            "entry": about.entry_version,
            "frame": about.frame_version,
        },
        "python": about.python,
        "platform": about.platform,
    }


def _ending(is_final: bool, reason: str) -> str:
    if reason:
        return reason
    return "every member ended" if is_final else "the recording ends before its session"


def inspect_lines(found: dict[str, Any], path: Path) -> list[str]:
    """The content as lines for the user, without control characters."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(min(found["opened_ms"] / 1000, 2**33)))
    options = ", ".join(f"{name} {value}" for name, value in found["options"].items() if value is not None)
    rows = [
        ("question", short(found["question"]) if found["text"] else WITHOUT_TEXT),
        *_what_if_rows(found),
        ("session", f"{found['session']}, opened {when}"),
        ("options", options),
        ("length", f"{found['length_s']:.2f} s, windows {found['first_window']} to {found['last_window']}"),
        ("ended", found["ended"]),
        ("parted", _parted(found)),
        ("agreement", "not measured" if (mean := found["mean_agreement"]) is None else f"{mean:.3f} on average"),
        ("losses", f"{found['late']} late, {found['duplicates']} duplicates, {found['dead_letters']} dead letters"),
        ("tier", "; ".join(f"fell from {one['from']} to {one['to']} in window {one['window']}" for one in
                           found["tier_falls"]) or "did not fall"),
        ("file", _file_line(found)),
        ("lost windows", ", ".join(f"{first} to {last}" for first, last in found["gaps"][:20]) or "none"),
        ("recorded by", f"council {found['versions']['council']}, {found['python']}, {found['platform']} (recording "
                        f"{found['versions']['recording']}, entries {found['versions']['entry']}, frames "
                        f"{found['versions']['frame']})"),
    ]  # fmt: skip
    lines = [f"{name:<13} {short(text, 400)}" for name, text in (("recording", str(path)), *rows)]
    lines += ["", *_table(("member", "entries", "tokens", "tokens/s", "state", "reason"), _member_rows(found))]
    channels = [(one["topic"], str(one["messages"]), str(one["bytes"])) for one in found["channels"]]
    return [*lines, "", *_table(("channel", "messages", "bytes"), channels)]


def _what_if_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines about a session whose answers begin with a given text."""
    rows = [("what if of", found["parent"])] if found["parent"] else []
    return [*rows, ("begins with", short(found["prefix"]))] if found["prefix"] else rows


def _parted(found: dict[str, Any]) -> str:
    if found["partings"] is not None:
        count, discarded = found["partings"], found["superseded"]
        often = f"{times(count)}{estimated_of(count, found['estimates'])}" if count else "never"
        return f"the drafts of one answer, {often}; {discarded} token{' was' if discarded == 1 else 's were'} discarded"
    if found["diverged_at_bytes"] is None:
        return "the answers did not part"
    return f"at byte {found['diverged_at_bytes']}, shown at {found['diverged_at_s']:.2f} s"


def _file_line(found: dict[str, Any]) -> str:
    each = found["disk_bytes_per_frame"]
    return f"{found['size_bytes']:,} bytes, {found['frames']} frames" + (f" of {each:g} bytes on disk" if each else "")


def _member_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            one["name"] if one["name"] == one["model"] else f"{one['name']} ({one['model']})",
            str(one["entries"]),
            str(one["tokens"]),
            "" if one["tokens_per_s"] is None else f"{one['tokens_per_s']:g}",
            one["state"] or "",
            one["reason"] or "",
        )
        for one in found["members"]
    ]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their longest cell, of at most 60 characters."""
    cells = [head, *([short(plain(cell), 60) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
