"""The names of everything the council keeps in Redis, and how large it may grow.

The `{session}` hash tag keeps all keys of a session in one slot of a Redis Cluster, so that one script may touch them.
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

# A minute of silence of every role is forgiven many times over; a day also ends a council that nobody came back to.
SESSIONS_TTL_S = 86_400
PROCESS_TTL_S = 5
RETENTION_S = 3_600
# Ten minutes of frames at 60 Hz: what a page can scrub back over, and what bounds a session's memory.
FRAMES_MAXLEN = 36_000
# Enough to see what went wrong; what is wrong a thousand times is wrong in the same way.
SIDE_STREAM_MAXLEN = 1_000
# XADD's field names: one field an entry.
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
    """All keys of a session: state, tokens, frames, events, control, dead. In the order the scripts take them."""
    return state(session), tokens(session), frames(session), events(session), control(session), dead(session)


def session_named(raw: bytes) -> str:
    """The session id in an entry of the streams of sessions and orders.

    Another client may write there. Bytes that are not text become replacement characters: an id that no session has, so
    that its reader treats it as that of a session that has expired.
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
    """A key that sorts entry ids as Redis does."""
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
