"""A role's settings, from the environment variables that its supervisor, or the user who starts it alone, sets."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import msgspec

from runtime.lifeline import is_supervised
from runtime.memory import read_memory
from schemas.errors import Refused
from schemas.rules.tiers import TIERS, TierPolicy, tier_for_memory, tier_named
from transport.redis.prefix import with_prefix
from transport.redis.server_check import check_server
from transport.rights import check_rights

# Most answers end within it; service managers kill a process that has not ended after 30 to 90 s.
DEFAULT_DRAIN_S = 20
MOST_DRAIN_S = 3_600


def tiers_from_environment() -> Mapping[str, TierPolicy]:
    """All tiers: the defaults, with those of COUNCIL_TIER_POLICIES (a JSON object) changed. Raises Refused."""
    raw = os.environ.get("COUNCIL_TIER_POLICIES")
    if not raw:
        return TIERS
    try:
        return TIERS | msgspec.json.decode(raw, type=dict[str, TierPolicy])
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise Refused(
            "bad_tiers", "COUNCIL_TIER_POLICIES is not a JSON object of tiers: unset it; `council up` sets it."
        ) from None


def tier_from_environment() -> TierPolicy:
    """The tier of COUNCIL_TIER, or the one for this machine's memory. Raises Refused."""
    if name := os.environ.get("COUNCIL_TIER"):
        return tier_named(name, tiers_from_environment())
    return tier_for_memory(read_memory().usable_bytes, tiers_from_environment())


def drain_from_environment() -> float:
    """COUNCIL_DRAIN_S: for how many seconds a producer that is asked to end finishes its answers. Raises Refused."""
    return checked_drain(os.environ.get("COUNCIL_DRAIN_S") or str(DEFAULT_DRAIN_S))


def checked_drain(text: str) -> float:
    """The seconds that the text is. Raises Refused."""
    try:
        drain_s = float(text)
    except ValueError:
        drain_s = math.nan
    if not 0 <= drain_s <= MOST_DRAIN_S:
        raise Refused("bad_drain", f"drain_s is {text!r}: give a number of seconds from 0 to {MOST_DRAIN_S}.")
    return drain_s


def redis_from_environment(rights: Sequence[str] = ()) -> str:
    """REDIS_URL, with the prefix of COUNCIL_PREFIX. Raises Refused where it is not set, or where no usable Redis
    answers there, or where its user lacks a right that every role needs, or one of `rights`.

    A supervised role gets the whole URL from its supervisor. It does not check it: its supervisor did, and a role that
    is started again waits until Redis is back.
    """
    url = os.environ.get("REDIS_URL", "")
    if not url:
        raise Refused("no_redis_url", "REDIS_URL is not set: set it to your Redis, such as redis://127.0.0.1:6379/0.")
    if is_supervised():
        return url
    url = with_prefix(url, os.environ.get("COUNCIL_PREFIX") or None)
    # In this order: a user without rights gets one sentence about all of them.
    check_rights(url, rights)
    check_server(url)
    return url
