"""From the bytes of an entry to an entry that makes sense in its session."""

from __future__ import annotations

from functools import lru_cache

from schemas.entries import Beat, Cancel, Claim, Mark, Token, decode_entry
from schemas.errors import Malformed
from schemas.keys import is_entry_id
from schemas.sessions import Opening

# All tokens of a member name the same claim; two a member of the most sessions that a process has.
_is_claim = lru_cache(maxsize=4_096)(is_entry_id)


def sound_entry(raw: bytes, member_count: int) -> Token | Mark:
    """The entry. Raises Malformed where there is none, or where it speaks of a member that the session does not
    have."""
    entry = decode_entry(raw)
    if isinstance(entry, Token) and 0 <= entry.member < member_count and _is_claim(entry.claim):
        return entry
    if isinstance(entry, Opening):
        raise Malformed("a session is opened once")
    members = () if isinstance(entry, Beat) else entry.members if isinstance(entry, Cancel) else (entry.member,)
    if any(not 0 <= member < member_count for member in members):
        raise Malformed("there is no such member")
    if not isinstance(entry, Beat | Cancel | Claim) and not _is_claim(entry.claim):
        raise Malformed("a claim is the id of an entry")
    return entry
