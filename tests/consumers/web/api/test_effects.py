"""The effects of branches: computed once for the same texts, however often a page asks."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from consumers.web.api import what_if
from schemas.rules.effect import Effect, effects_of
from schemas.rules.what_if import WholeAnswers
from tests.support.sessions import opening_of


async def test_an_effect_is_computed_again_only_for_other_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []

    def count(parent: WholeAnswers, branch: WholeAnswers) -> dict[str, Effect]:
        computed.append(branch.texts[0])
        return effects_of(parent, branch)

    monkeypatch.setattr(what_if, "effects_of", count)
    effects = what_if._Effects()
    parent = WholeAnswers(opening_of("a"), ["The sky is blue."], ended=True)
    branch = msgspec.structs.replace(parent, texts=["The sky was"], ended=False)
    longer = msgspec.structs.replace(branch, texts=["The sky was red."])
    first, again = await asyncio.gather(*(effects.of("s1", parent, branch) for _ in range(2)))
    assert first == again == effects_of(parent, branch)
    for _ in range(2):
        assert await effects.of("s1", parent, longer) == effects_of(parent, longer)
    assert computed == ["The sky was", "The sky was red."]
