"""Settings of a role, from the environment, where a supervisor or the user has set them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from runtime.lifeline import is_supervised
from runtime.memory import read_memory
from schemas.errors import Refused
from schemas.rules.tiers import TIERS, TierPolicy, tier_for_memory, tier_named
from transport.redis.server_check import check_server


def tiers_from_environment() -> Mapping[str, TierPolicy]:
    """All tiers: the usual ones, or those of COUNCIL_TIER_POLICIES, a JSON object of them. Raises Refused."""
    raw = os.environ.get("COUNCIL_TIER_POLICIES")
    if not raw:
        return TIERS
    try:
        return TIERS | msgspec.json.decode(raw, type=dict[str, TierPolicy])
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise Refused(
            "bad_tiers", "COUNCIL_TIER_POLICIES is no JSON object of tiers: leave it to `council up`."
        ) from None


def tier_from_environment() -> TierPolicy:
    """COUNCIL_TIER, or what this machine's memory carries. Raises Refused."""
    if name := os.environ.get("COUNCIL_TIER"):
        return tier_named(name, tiers_from_environment())
    return tier_for_memory(read_memory().usable_bytes, tiers_from_environment())


def redis_from_environment() -> str:
    """The URL of the role's Redis, from REDIS_URL. Raises Refused where it is not set, or no usable Redis answers
    there.

    A supervised role does not check it: the supervisor did, and a role that is started again waits for its Redis.
    """
    url = os.environ.get("REDIS_URL", "")
    if not url:
        raise Refused(
            "no_redis_url", "REDIS_URL is not set: set it to the URL of a Redis, such as redis://127.0.0.1:6379/0."
        )
    if not is_supervised():
        check_server(url)
    return url
