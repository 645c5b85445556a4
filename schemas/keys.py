"""The names of the council's keys in Redis, and the bounds of what they contain.

The `{session}` hash tag puts all keys of a session into one slot of a Redis Cluster, so that one script can use them.
"""

from __future__ import annotations

SESSIONS = "council:sessions"
PROCESSES = "council:processes"
RESIDENCY = "council:residency"
LOADER = "council:loader"
KEEP = "council:keep"
AGGREGATOR_GROUP = "aggregator"
DECIPHER_GROUP = "decipher"
REPLAY_GROUP = "replay"

# Every role renews it each minute. After a day without any role, the council has ended.
SESSIONS_TTL_S = 86_400
PROCESS_TTL_S = 5
RETENTION_S = 3_600
# Ten minutes of frames at 60 Hz: a page can go back so far, and a session's memory is bounded.
FRAMES_MAXLEN = 36_000
# Enough to find out what is wrong.
SIDE_STREAM_MAXLEN = 1_000
# The field names of entries, which have one field each.
ENTRY_FIELD = b"e"
SESSION_FIELD = b"s"


def tokens(session: str) -> str:
    return f"council:{{{session}}}:tokens"


def frames(session: str) -> str:
    return f"council:{{{session}}}:frames"


def events(session: str) -> str:
    return f"council:{{{session}}}:events"


def control(session: str) -> str:
    return f"council:{{{session}}}:control"


def dead(session: str) -> str:
    return f"council:{{{session}}}:dead"


def state(session: str) -> str:
    return f"council:{{{session}}}:state"


def of_session(session: str) -> tuple[str, str, str, str, str, str]:
    """All keys of a session, in the order of the scripts: state, tokens, frames, events, control, dead."""
    return state(session), tokens(session), frames(session), events(session), control(session), dead(session)


def session_named(raw: bytes) -> str:
    """The session id in an entry of the streams of sessions and of orders.

    Another client may have written it. Bytes that are not text become replacement characters: no session has such an
    id, so its readers treat it as a session that has expired.
    """
    return raw.decode("utf-8", "replace")


def process(name: str) -> str:
    return f"council:process:{name}"


def producer_group(model: str) -> str:
    return f"producer:{model}"


def entry_ms(entry_id: str) -> int:
    """The millisecond part of a stream entry's id."""
    return int(entry_id[: entry_id.index("-")])


def entry_order(entry_id: str) -> tuple[int, int]:
    """A sort key for entry ids, in the order of Redis."""
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq)


def id_before(entry_id: str) -> str:
    """The largest id that is smaller than this one."""
    ms, seq = entry_order(entry_id)
    return f"{ms}-{seq - 1}" if seq else f"{ms - 1}-{2**64 - 1}"


def is_entry_id(text: str) -> bool:
    """True for `<ms>-<seq>` in plain digits."""
    ms, _, seq = text.partition("-")
    return text.isascii() and ms.isdigit() and seq.isdigit()


def frame_id(window_index: int) -> str:
    """The id of a window's entry in the frames stream (Redis allows no 0-0)."""
    return f"{window_index + 1}-0"
