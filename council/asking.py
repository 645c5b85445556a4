"""`council.ask`: one question to the council, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from council.answers import MemberAnswers
from council.ensemble import TurboEnsemble
from schemas.rules.arguments import AskOptions
from schemas.sessions import MemberSpec


async def ask(
    prompt: str,
    models: Sequence[str | MemberSpec] | str | None = None,
    *,
    tier: str | None = None,
    redis_url: str | None = None,
    **options: Unpack[AskOptions],
) -> MemberAnswers:
    """Asks the council that runs on this machine, or at `redis_url`; where none runs, a private one that is ended
    afterwards. Returns the answers, when all members have ended.

    `tier` and `redis_url` are those of TurboEnsemble, all other arguments and errors those of
    TurboEnsemble.generate_ensemble. Several questions need one TurboEnsemble, whose private council is started once.
    """
    async with TurboEnsemble(tier, redis_url) as ensemble:
        return await ensemble.ask(prompt, models, **options)
