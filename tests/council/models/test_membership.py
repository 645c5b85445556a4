"""A council and a session choose their members by the same rule, with the same refusals."""

from __future__ import annotations

from typing import Any

import pytest

from council.models.catalogue import Catalogue
from council.models.membership import council_of
from council.settings.schema import Settings
from producers.source import ModelSource, Offer
from schemas.errors import Refused
from schemas.models import ModelFacts
from schemas.rules.admission import admit
from schemas.rules.tiers import GB, TIERS
from schemas.sessions import Limits, SessionRequest

OLLAMA = "http://127.0.0.1:11434"
FACTS = [
    ModelFacts("a:latest", OLLAMA, GB, "d1", residency="absent"),
    ModelFacts("same:7b", OLLAMA, GB, "d1", residency="absent"),
    ModelFacts("huge", OLLAMA, 99 * GB, "d2", residency="absent"),
    ModelFacts("loaded", OLLAMA, GB, "d3", residency="loaded"),
    ModelFacts("far", "https://api.example.com", remote=True),
    ModelFacts("farther", "https://api.example.com", remote=True),
]


def _catalogue(*facts: ModelFacts) -> Catalogue:
    return Catalogue({one.model: Offer(one, ModelSource("ollama", one.model, one.server)) for one in facts})


@pytest.mark.parametrize(
    ("models", "tier", "allow_remote", "code"),
    [
        (["nothing"], "mid", False, "unknown_model"),
        (["a", "a:latest"], "mid", False, "duplicate_model"),
        (["x=a", "x=loaded"], "mid", False, "duplicate_member"),
        (["huge"], "high", False, "model_too_large"),
        (["a", "same:7b"], "mid", False, "same_model"),
        (["far"], "mid", True, "remote_model"),
        (["far"], "hybrid", False, "remote_not_allowed"),
        (["far", "farther"], "hybrid", True, "many_remote"),
    ],
)
def test_members_that_a_session_may_not_have_are_refused_for_a_council_in_the_same_words(
    models: list[str], tier: str, allow_remote: bool, code: str
) -> None:
    request = SessionRequest("Why?", tuple(models), allow_remote=allow_remote)
    with pytest.raises(Refused) as of_session:
        admit(request, "", FACTS, TIERS[tier], Limits())
    with pytest.raises(Refused) as of_council:
        council_of(Settings(models=models, allow_remote=allow_remote), _catalogue(*FACTS), TIERS[tier])
    assert str(of_council.value) == str(of_session.value)
    assert of_council.value.code == of_session.value.code == code


def test_without_named_members_a_council_starts_what_fits_with_the_loaded_first() -> None:
    council = council_of(Settings(), _catalogue(*FACTS), TIERS["mid"])
    assert list(council.models) == ["loaded", "a:latest"]
    assert council.warnings == ("Left out, since the mid tier takes models of up to 8 GB: huge (99.0 GB).",)


def test_a_council_starts_as_many_models_as_its_tier_keeps_loaded() -> None:
    facts = [ModelFacts(f"m{i}", OLLAMA, GB, f"d{i}", residency="absent") for i in range(9)]
    assert list(council_of(Settings(), _catalogue(*facts), TIERS["low"]).models) == ["m0", "m1", "m2", "m3"]


@pytest.mark.parametrize(("capabilities", "is_refused"), [((), False), (("embedding",), True)])
def test_a_model_that_writes_no_text_is_refused_by_name(capabilities: Any, is_refused: bool) -> None:
    facts = ModelFacts("embedder", OLLAMA, residency="absent")
    found = Catalogue({"embedder": Offer(facts, ModelSource("ollama", "embedder", OLLAMA), capabilities)})
    settings = Settings(models=["embedder"])
    if is_refused:
        with pytest.raises(Refused, match=r"'embedder' writes no text \(it does: embedding\)"):
            council_of(settings, found, TIERS["mid"])
    else:
        assert list(council_of(settings, found, TIERS["mid"]).models) == ["embedder"]
