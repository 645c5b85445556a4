"""The what-if branches of a session: their ids, in a field of the session's state hash.

    parent's state    branches: "3f2a… 90bc…"      the same time to live as the parent, deleted with it

Parent and branch are in different slots of a cluster, so no script can write both. The id is added before the branch is
opened: a branch that exists is always in the list. Readers leave out the ids of sessions that do not exist: those that
were never opened, because their process ended in between, and those that were deleted or have expired.
"""

from __future__ import annotations

from schemas import keys
from transport.redis.connection import AsyncPipe, accepted
from transport.redis.scripts import SCRIPTS

# Two of each question of an hour. The ids take 900 bytes; with more branches the oldest ones are not listed.
MOST_BRANCHES = 64
# The newest ids may be of sessions that other processes are opening just now.
_BEING_OPENED = 4
_BRANCH = SCRIPTS["branch"]


async def add_branch(pipe: AsyncPipe, parent: str, branch: str) -> None:
    """Adds the session `branch`, which is about to be opened, to the branches of `parent`. Does nothing where the
    parent does not exist (any more). Raises RedisAway, RedisRefuses."""
    names = await _listed(pipe, parent)
    gone = ""
    if len(names) >= MOST_BRANCHES:
        # An id without a session makes room first: otherwise openings that fail would push out branches that exist.
        existing = await _existing(pipe, names)
        gone = next((name for name in names[:-_BEING_OPENED] if name not in existing), "")
    (reply,) = await pipe.run([_BRANCH.call([keys.state(parent)], [branch, MOST_BRANCHES, gone])])
    accepted(reply)


async def find_branches(pipe: AsyncPipe, session: str) -> list[str]:
    """The ids of the session's branches that exist, the oldest first. Raises RedisAway, RedisRefuses."""
    return await _existing(pipe, await _listed(pipe, session))


async def _listed(pipe: AsyncPipe, session: str) -> list[str]:
    written = await pipe.one("HGET", keys.state(session), "branches")
    return keys.session_named(written).split() if written else []


async def _existing(pipe: AsyncPipe, names: list[str]) -> list[str]:
    replies = await pipe.run([("EXISTS", keys.state(name)) for name in names]) if names else []
    return [name for name, reply in zip(names, replies, strict=True) if accepted(reply)]
