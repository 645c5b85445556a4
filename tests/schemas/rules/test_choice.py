"""The rules of admission: which models become members, with which options, after which turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from schemas.errors import Refused
from schemas.models import ModelFacts, facts_in
from schemas.rules.admission import Admission, admit
from schemas.rules.chat import Chat, chat_of
from schemas.rules.tiers import GB, TIERS, TierPolicy
from schemas.sessions import MAX_TURNS, Limits, Message, Rung, Sampling, SessionRequest

OLLAMA = "http://127.0.0.1:11434"


def at_ollama(model: str, gb: float = 1.0, digest: str = "", **more: Any) -> ModelFacts:
    size = int(gb * GB)
    return ModelFacts(model, OLLAMA, size, digest, max_loaded=3, residency="absent", max_loaded_setting="MOST", **more)


def remote(model: str) -> ModelFacts:
    return ModelFacts(model, "https://api.example.com", remote=True)


def admitted(served: list[ModelFacts], tier: str | TierPolicy = "mid", **request: Any) -> Admission:
    policy = TIERS[tier] if isinstance(tier, str) else tier
    return admit(SessionRequest(**({"prompt": "Why?"} | request)), "s1", served, policy, Limits())


def members(admission: Admission) -> list[str]:
    return [member.model for member in admission.opening.members]


def refusal(served: list[ModelFacts], tier: str = "mid", **request: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        admitted(served, tier, **request)
    return caught.value.code, str(caught.value)


def _refused(work: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        work()
    return caught.value.code, str(caught.value)


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_model_over_the_tiers_size_is_refused_by_name_and_number() -> None:
    served = [at_ollama("small", 8.0), at_ollama("huge", 8.1)]
    code, sentence = refusal(served, models=("small", "huge"))
    assert code == "model_too_large"
    assert "'huge' has 8.1 GB and the mid tier takes models of up to 8 GB" in sentence
    assert "tiers.mid.max_model_size_gb" in sentence
    assert members(admitted(served, models=("small",))) == ["small"]
    assert members(admitted(served, "high", models=("small", "huge"))) == ["small", "huge"]


def test_a_model_over_the_tiers_memory_is_refused() -> None:
    little = msgspec.structs.replace(TIERS["mid"], ram_budget_gb=2.0, vram_budget_gb=3.0)
    code, sentence = _refused(lambda: admitted([at_ollama("m", 5.5)], little, models=("m",)))
    assert (code, "the mid tier has 5 GB of memory for models" in sentence) == ("model_too_large", True)
    assert members(admitted([at_ollama("m", 5.0)], little, models=("m",))) == ["m"]
    inside = ModelFacts("g", size_bytes=3 * GB, residency="absent")
    assert "the mid tier has 2 GB" in _refused(lambda: admitted([inside], little, models=("g",)))[1]


def test_a_name_without_its_tag_is_the_latest_in_models_weights_and_options() -> None:
    served = [at_ollama("llama3:latest"), at_ollama("other")]
    opening = admitted(
        served, models=("llama3", "other"), weights={"llama3": 2.0}, options={"llama3": {"seed": 5.0}}
    ).opening
    assert [(member.model, member.weight) for member in opening.members] == [("llama3:latest", 2.0), ("other", 1.0)]
    assert opening.sampling_of(0).seed == 5
    assert refusal(served, models=("llama3", "llama3:latest"))[0] == "duplicate_model"


def test_the_opening_contains_the_weighting_and_the_weights_of_the_request() -> None:
    served = [at_ollama("a"), at_ollama("b")]
    assert admitted(served).opening.weighting == "fixed"
    opening = admitted(served, weighting="certainty", weights={"a": 2.0}).opening
    assert (opening.weighting, [member.weight for member in opening.members]) == ("certainty", [2.0, 1.0])
    for bad in ("heavy", "", None):
        code, sentence = refusal(served, weighting=bad)
        assert (code, sentence.endswith("give fixed or certainty.")) == ("bad_weighting", True)


def test_the_members_are_in_step_unless_the_request_has_sync_free() -> None:
    served = [at_ollama("a"), at_ollama("b")]
    assert admitted(served).opening.sync == "step"
    assert admitted(served, sync="free").opening.sync == "free"
    for bad in ("fast", "", None):
        assert refusal(served, sync=bad) == ("bad_sync", f"sync is {str(bad)!r}: give step, free or consensus.")


def test_a_message_repeats_only_the_beginning_of_a_long_text() -> None:
    assert len(refusal([at_ollama("a")], models=("x" * 20_000,))[1]) < 300
    assert len(refusal([at_ollama("a")], weighting="z" * 20_000)[1]) < 300
    assert len(refusal([at_ollama("a")], sync="s" * 20_000)[1]) < 300
    assert len(refusal([at_ollama("a")], options={"y" * 20_000: {"seed": 1.0}})[1]) < 300


def test_a_warning_lists_the_models_of_an_unmanaged_server_that_may_replace_each_other() -> None:
    served = [ModelFacts(f"m{i}", "http://127.0.0.1:1234", max_loaded=1) for i in range(2)]
    (warning,) = admitted(served).warnings
    assert "has 1 model in memory and this session asks for 2 of its models: load them there before (m1)" in warning


def test_the_size_of_an_unmanaged_model_is_not_limited() -> None:
    facts = ModelFacts("big", "http://127.0.0.1:8080", 40 * GB)
    assert members(admitted([facts], models=("big",))) == ["big"]


def test_two_names_of_one_model_are_refused_and_never_chosen_together() -> None:
    served = [at_ollama("a:latest", digest="d1"), at_ollama("b:7b", digest="d1"), at_ollama("c", digest="d2")]
    code, sentence = refusal(served, models=("a:latest", "b:7b"))
    assert (code, "'a:latest' and 'b:7b' are two names of one model" in sentence) == ("same_model", True)
    assert members(admitted(served)) == ["a:latest", "c"]
    elsewhere = msgspec.structs.replace(served[1], server="http://127.0.0.1:9999")
    assert members(admitted([served[0], elsewhere], models=("a:latest", "b:7b"))) == ["a:latest", "b:7b"]


def test_a_request_without_models_gets_the_first_ones_that_fit() -> None:
    served = [at_ollama("huge", 9.0), *(at_ollama(f"m{i}") for i in range(5))]
    assert members(admitted(served)) == ["m0", "m1", "m2", "m3"]
    assert refusal([at_ollama("huge", 9.0)])[0] == "model_too_large"
    assert refusal([])[0] == "no_models"


def test_a_remote_model_needs_the_hybrid_tier_and_consent_and_is_never_a_default() -> None:
    served = [remote("far"), at_ollama("near"), remote("farther")]
    assert refusal(served, models=("far", "near"))[0] == "remote_model"
    code, sentence = refusal(served, "hybrid", models=("far", "near"))
    assert (code, "https://api.example.com" in sentence, "--allow-remote" in sentence) == (
        "remote_not_allowed", True, True,
    )  # fmt: skip
    assert refusal(served, "mid", models=("far",), allow_remote=True)[0] == "remote_model"
    assert refusal(served, "hybrid", models=("far", "farther"), allow_remote=True)[0] == "many_remote"
    admission = admitted(served, "hybrid", models=("far", "near"), allow_remote=True)
    assert [member.remote for member in admission.opening.members] == [True, False]
    assert members(admitted(served, "hybrid", allow_remote=True)) == ["near"]
    assert refusal([remote("far")], "hybrid", allow_remote=True)[0] == "no_models"


def test_a_warning_lists_the_members_that_do_not_fit_into_memory_and_the_setting() -> None:
    served = [at_ollama(f"m{i}") for i in range(5)]
    (warning,) = admitted(served).warnings
    assert f"{OLLAMA} keeps 3 models in memory and this session has 4 of them: m3 waits until another" in warning
    assert "set MOST=4" in warning
    (warning,) = admitted([msgspec.structs.replace(facts, max_loaded=1) for facts in served[:2]]).warnings
    assert "keeps 1 model in memory and this session has 2 of them: m1 waits" in warning
    assert admitted(served, models=("m0", "m1", "m2")).warnings == ()
    assert admitted([ModelFacts(f"n{i}", max_loaded=0) for i in range(4)]).warnings == ()


def test_a_warning_lists_the_members_over_the_memory_budget_and_the_budget() -> None:
    inside = [ModelFacts(f"g{i}", size_bytes=7 * GB, residency="absent") for i in range(3)]
    (warning,) = admitted(inside).warnings
    assert "The members need 21.0 GB and the mid tier has 16 GB for them: g2 waits" in warning
    assert "tiers.mid.ram_budget_gb" in warning
    # At a server they may go into VRAM and RAM: 28 GB in the mid tier.
    assert admitted([at_ollama(f"m{i}", 7.0) for i in range(3)]).warnings == ()
    four = [msgspec.structs.replace(at_ollama(f"m{i}", 8.0), max_loaded=0) for i in range(4)]
    (warning,) = admitted(four).warnings
    assert "need 32.0 GB and the mid tier has 28 GB for them: m3 waits" in warning


def test_the_opening_contains_the_ladder_of_the_councils_tiers() -> None:
    served = [at_ollama("a")]
    assert admitted(served, "high").opening.ladder == (Rung("mid", 4), Rung("low", 2))
    assert admitted(served, "hybrid").opening.ladder == (Rung("mid", 4), Rung("low", 2))
    assert admitted(served, "low").opening.ladder == ()
    tiers = TIERS | {"mid": msgspec.structs.replace(TIERS["mid"], max_parallel_models=5)}
    opening = admit(SessionRequest("Why?"), "s1", served, TIERS["high"], Limits(), tiers=tiers).opening
    assert opening.ladder == (Rung("mid", 5), Rung("low", 2))


# --- options and turns ------------------------------------------------------------------------------------------------


def test_a_members_own_options_replace_the_sessions() -> None:
    options = {"b": {"temperature": 0.2, "seed": 7.0, "max_tokens": 9.0}}
    opening = admitted([at_ollama("a"), at_ollama("b")], options=options, temperature=1.0, max_tokens=50).opening
    assert opening.sampling_of(0) == Sampling(50, 1.0)
    assert opening.sampling_of(1) == Sampling(9, 0.2, 7)
    assert opening.members[0].sampling is None


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        ({"x": {"seed": 1.0}}, "unknown_option", "unknown member 'x'; members: a"),
        (
            {"a": {"top_p": 1.0}},
            "unknown_option",
            "'a' has an unknown option 'top_p'; known options: temperature, seed",
        ),
        ({"a": {"seed": 1.5}}, "bad_seed", "seed of 'a' is 1.5: give a whole number"),
        ({"a": {"max_tokens": 0.0}}, "bad_max_tokens", "max_tokens of 'a' is 0"),
        ({"a": {"temperature": float("nan")}}, "bad_temperature", "temperature of 'a' is nan"),
        ({"a": {"seed": -1.0}}, "bad_seed", "seed of 'a' is -1"),
        ({"a": {"seed": float("inf")}}, "bad_seed", "seed of 'a' is inf"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, dict[str, float]], code: str, part: str) -> None:
    assert (found := refusal([at_ollama("a")], options=options))[0] == code
    assert part in found[1]


USER, ASSISTANT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}


def test_a_chat_is_a_system_text_earlier_turns_and_the_turn_to_answer() -> None:
    system = {"role": "system", "content": "Be kind."}
    earlier = (Message("user", "Why?"), Message("assistant", "Because."))
    assert chat_of([system, USER, ASSISTANT, USER]) == Chat("Why?", "Be kind.", earlier)
    assert chat_of([USER]) == Chat("Why?")


@pytest.mark.parametrize(
    ("messages", "part"),
    [
        ([], "There are no messages"),
        ([USER, ASSISTANT], "The last message must have the role user"),
        ([{"role": "system", "content": "x"}], "The last message must have the role user"),
        (
            [USER, {"role": "system", "content": "x"}, USER],
            "Message 2 has the role system: only the first message may have it",
        ),
        (
            [{"role": "system", "content": "x"}, {"role": "system", "content": "x"}, USER],
            "Message 2 has the role system",
        ),
        ([{"role": "robot", "content": "x"}], "Message 1 has the role 'robot'"),
        (["hi"], "Message 1 is not valid"),
        ([{"role": "user"}], "Message 1 is not valid"),
        ([{"role": "user", "content": [{"type": "text"}]}], "Message 1 is not valid"),
        ([USER | {"name": "x"}], "Message 1 is not valid"),
    ],
)
def test_the_refusal_of_a_chat_has_the_number_of_the_wrong_message(messages: list[object], part: str) -> None:
    with pytest.raises(Refused) as caught:
        chat_of(messages)
    assert part in str(caught.value)


def test_all_turns_together_have_the_prompts_limit() -> None:
    half = Message("user", "x" * 20_000)
    assert refusal([at_ollama("a")], history=(half,), prompt="y" * 20_000) == (
        "prompt_too_long", "The messages together have 40000 bytes, and the limit is 32768: shorten it.",
    )  # fmt: skip
    assert refusal([at_ollama("a")], history=(Message("user", "\ud800"),))[0] == "bad_message"
    assert refusal([at_ollama("a")], history=(Message("user", "x"),) * (MAX_TURNS + 1))[0] == "too_many_messages"
    assert admitted([at_ollama("a")], history=(Message("user", "x"),)).opening.history == (Message("user", "x"),)


def test_facts_are_read_from_a_record_as_they_were_written() -> None:
    facts = at_ollama("a", 2.5, "d1", model_there="a:latest", slots=4, trouble="away")
    assert facts_in(facts.as_detail() | {"sessions": 3}) == facts
    assert facts_in({"model": "a", "size_bytes": "many"}) == ModelFacts("a")
    assert facts.memory_key == (OLLAMA, "a:latest")


def test_a_council_that_draws_its_words_has_a_seed_that_follows_from_its_opening() -> None:
    served = [at_ollama("a", continues="yes"), at_ollama("b", continues="yes")]

    def seed(session: str = "s1", **more: Any) -> int | None:
        request = SessionRequest("Why?", **({"sync": "consensus"} | more))
        return admit(request, session, served, TIERS["mid"], Limits()).opening.sampling.seed

    drawn = {seed(f"{number:012x}") for number in range(50)}
    assert None not in drawn
    assert len(drawn) == 50
    assert seed("s2") == seed("s2")
    assert (seed(seed=7), seed(temperature=0.0), seed(sync="step")) == (7, None, None)


def test_only_a_consensus_has_a_mixture_and_it_has_at_most_twenty_alternatives() -> None:
    served = [at_ollama("a", continues="yes"), at_ollama("b", continues="yes")]
    for number in (0, 20):
        assert admitted(served, sync="consensus", mixture=number).opening.mixture == number
    for number in (-1, 21):
        assert refusal(served, sync="consensus", mixture=number) == (
            "bad_mixture", f"mixture is {number}: give a whole number from 0 to 20.",
        )  # fmt: skip
    assert admitted(served).opening.mixture == 0
    assert refusal(served, mixture=5)[0] == "bad_mixture"
