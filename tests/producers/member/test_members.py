"""Members of one model: how they are described, what each asks its model, and one producer that serves them all."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from council.command.arguments import members as members_of_flag
from council.models.catalogue import Catalogue
from council.models.membership import BOX_MEMBERS, council_of, sources_for
from council.settings.schema import load_settings
from producers.source import ModelSource, Offer
from schemas.entries import Claim, decode_entry
from schemas.errors import Refused
from schemas.models import ModelFacts
from schemas.processes import ProcessRecord
from schemas.rules.admission import Admission, admit
from schemas.rules.members import NAME_PATTERN, SPEC_OPTIONS, member_spec, member_spec_of, split_members
from schemas.rules.served import named_members
from schemas.rules.tiers import TIERS
from schemas.sessions import Limits, Member, MemberSpec, Sampling, SessionRequest
from tests.support.council_command import council
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.sessions import check_each_token_in_one_frame, check_the_law, opening_of, token_stream, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session

MODEL = "ngram:bpe-2"
CALM, OPEN = MemberSpec(MODEL, "calm", temperature=0.0), MemberSpec(MODEL, "open", temperature=0.8)


def refusal_of(written: str) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        member_spec(written)
    return caught.value.code, str(caught.value)


def admitted(
    *models: str | MemberSpec, slots: int = 8, named: tuple[MemberSpec, ...] = (), **request: Any
) -> Admission:
    served = [ModelFacts(MODEL, slots=slots, slots_setting="set SLOTS for it"), ModelFacts("other")]
    asked = SessionRequest("Why?", models, **request)
    return admit(asked, "s1", served, TIERS["mid"], Limits(), named=named)


# --- how a member is described ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "spec"),
    [
        ("smollm2", MemberSpec("smollm2")),
        ("llama3:8b-instruct", MemberSpec("llama3:8b-instruct")),
        ("calm=smollm2", MemberSpec("smollm2", "calm")),
        ("calm=smollm2:temperature=0", MemberSpec("smollm2", "calm", temperature=0.0)),
        ("c=llama3:8b:temperature=0.5,seed=7", MemberSpec("llama3:8b", "c", temperature=0.5, seed=7)),
        (" c = m : temperature = 1 , max_tokens = 9 ", MemberSpec("m", "c", temperature=1.0, max_tokens=9)),
        ('c=m:system="Doubt, briefly: always = yes"', MemberSpec("m", "c", system="Doubt, briefly: always = yes")),
        ("c=m:system=Doubt it.", MemberSpec("m", "c", system="Doubt it.")),
        ("c=m:system=", MemberSpec("m", "c", system="")),
        ("m:temperature=0.2", MemberSpec("m", temperature=0.2)),
        ("gguf:models/tiny.gguf", MemberSpec("gguf:models/tiny.gguf")),
        ("g=gguf:/a b/x=1.gguf:seed=3", MemberSpec("gguf:/a b/x=1.gguf", "g", seed=3)),
        ("box/llama3:latest", MemberSpec("box/llama3:latest")),
    ],
)
def test_a_member_is_a_model_or_a_name_a_model_and_options(written: str, spec: MemberSpec) -> None:
    assert member_spec(written) == spec


@pytest.mark.parametrize(
    ("written", "code", "words"),
    [
        ("calm=", "bad_member", "has no model: write NAME=MODEL or MODEL"),
        ("", "bad_member", "has no model"),
        ("seed=7", "bad_member_name", "'seed' is not a valid name"),
        ("c=m:temprature=0", "unknown_option", "known options: temperature, seed, max_tokens, system"),
        ("c=m:temperature=warm", "bad_temperature", "temperature of 'c=m:temperature=warm' is 'warm': give a number"),
        ("c=m:seed=1.5", "bad_seed", "give a whole number"),
        ("c=m:max_tokens=inf", "bad_max_tokens", "give a whole number"),
        ("c=m:seed=1,seed=2", "bad_member", "gives seed twice"),
        ('c=m:system="Doubt', "bad_member", "has no closing double quote: add it"),
        ("c=m:seed=1e300", "bad_seed", "give a whole number"),
        ("c=m:seed=1,loud", "bad_member", "'loud' of 'c=m:seed=1,loud' is not an option"),
    ],
)
def test_a_description_that_is_not_valid_is_refused_in_one_sentence(written: str, code: str, words: str) -> None:
    found, sentence = refusal_of(written)
    assert (found, words in sentence) == (code, True), sentence


texts = st.text(st.characters(blacklist_characters='"', blacklist_categories=("Cs",)), max_size=30)
specs = st.builds(
    MemberSpec,
    st.from_regex(r"[a-z]{1,8}(:[a-z0-9.-]{1,6})?", fullmatch=True),
    st.from_regex(NAME_PATTERN, fullmatch=True).filter(lambda name: name not in SPEC_OPTIONS),
    temperature=st.none() | st.floats(0, 2),
    seed=st.none() | st.integers(0, 2**32 - 1),
    max_tokens=st.none() | st.integers(1, 8_192),
    system=st.none() | texts,
)


def written_of(spec: MemberSpec) -> str:
    given = {name: getattr(spec, name) for name in SPEC_OPTIONS if getattr(spec, name) is not None}
    values = [f'system="{value}"' if name == "system" else f"{name}={value!r}" for name, value in given.items()]
    return f"{spec.name}={spec.model}" + (":" + ",".join(values) if values else "")


@given(st.lists(specs, min_size=1, max_size=4))
def test_every_description_is_read_alone_and_in_a_list(described: list[MemberSpec]) -> None:
    """Also where a system text contains commas, colons and equals signs."""
    assert [member_spec(written_of(spec)) for spec in described] == described
    joined = ",".join(map(written_of, described))
    assert [member_spec(one) for one in split_members(joined)] == described
    assert [member_spec_of(msgspec.to_builtins(spec)) for spec in described] == described


@given(st.text(max_size=80))
def test_every_text_is_a_member_or_a_refusal(written: str) -> None:
    for one in split_members(written):
        with contextlib.suppress(Refused):
            assert member_spec(one).model


def test_a_list_of_models_without_names_is_a_list_of_names() -> None:
    assert members_of_flag("a, b,c:latest") == ["a", "b", "c:latest"]
    with pytest.raises(Refused, match="--models contains an empty name"):
        members_of_flag("a,,b")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "m", "colour": "red"}, "unknown field 'colour'; known fields: model, name, temperature"),
        ({"name": "calm"}, "missing required field `model`"),
        ({"model": "m", "temperature": "hot"}, "temperature"),
        ({"model": "m", "name": "7"}, "'7' is not a valid name"),
        ({"model": " "}, "has no model"),
    ],
)
def test_an_object_that_is_not_a_member_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words.split("`")[0].replace("(", "\\(")):
        member_spec_of(values)


# --- what each is asked for -------------------------------------------------------------------------------------------


def test_one_model_is_several_members_each_with_its_own_options_and_system_text() -> None:
    opening = admitted(
        "calm=ngram:bpe-2:temperature=0,seed=1", MemberSpec(MODEL, "critic", system="Doubt."), "other",
        system="Be kind.", temperature=0.5,
    ).opening  # fmt: skip
    assert opening.names == ("calm", "critic", "other")
    assert [member.model for member in opening.members] == [MODEL, MODEL, "other"]
    assert [opening.sampling_of(index) for index in range(3)] == [
        Sampling(512, 0.0, 1), Sampling(512, 0.5), Sampling(512, 0.5),
    ]  # fmt: skip
    assert [opening.system_of(index) for index in range(3)] == ["Be kind.", "Doubt.", "Be kind."]


def test_the_same_model_twice_needs_different_names() -> None:
    for asked, words in (
        ((MODEL, MODEL), f"give each member a name of its own, such as calm={MODEL}"),
        ((CALM, CALM), "Two members are called 'calm'"),
        (("other", MemberSpec(MODEL, "other")), "Two members are called 'other'"),
    ):
        with pytest.raises(Refused, match=words):
            admitted(*asked)
    assert admitted(MODEL, CALM).opening.names == (MODEL, "calm")


def test_a_members_name_comes_before_a_models() -> None:
    """A name that is both a member's and a model's means the member."""
    own = MemberSpec(MODEL, "other", temperature=0.0)
    assert admitted("other", named=(own,)).opening.members == (
        Member(MODEL, sampling=Sampling(512, 0.0), name="other"),
    )
    assert admitted(named=(own,)).opening.members == admitted("other", named=(own,)).opening.members


def test_a_description_of_a_members_name_is_refused_with_the_reason() -> None:
    for written in ("calm:temperature=0", "again=calm"):
        with pytest.raises(Refused, match="has no model, because 'calm' is a member"):
            admitted(written, named=(CALM,))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (MemberSpec(MODEL, "a b\n"), "is not a valid name"),
        (MemberSpec(MODEL, "0"), "is not a valid name"),
        (MemberSpec(MODEL, None), "is not valid"),  # type: ignore[arg-type]
        (MemberSpec(MODEL, seed=1.5), "is not valid"),  # type: ignore[arg-type]
        (MemberSpec(MODEL, temperature="1"), "is not valid"),  # type: ignore[arg-type]
        ({"model": MODEL}, "give a text or a MemberSpec"),
        (7, "give a text or a MemberSpec"),
    ],
)
def test_values_of_the_python_api_are_checked(given: Any, words: str) -> None:
    with pytest.raises(Refused, match=words):
        admitted(given)


def test_a_number_out_of_every_range_is_refused() -> None:
    for number in (10**400, float("inf"), float("nan")):
        with pytest.raises(Refused, match="seed of 'calm'"):
            admitted(CALM, options={"calm": {"seed": number}})


def test_a_long_description_is_read_in_one_pass() -> None:
    """Half a million separators: looking ahead from each of them would take an hour."""
    with pytest.raises(Refused, match="is not an option"):
        member_spec('a=m:system="' + '",' * 250_000 + '"')
    assert len(split_members(",".join(["a=m"] * 100_000))) == 100_000


def test_weights_and_options_are_given_by_the_members_name() -> None:
    opening = admitted(
        CALM, OPEN, weights={"open": 3.0}, options={"calm": {"seed": 9.0}, "open": {"temperature": 1.0}}
    ).opening
    assert [member.weight for member in opening.members] == [1.0, 3.0]
    assert [opening.sampling_of(index) for index in (0, 1)] == [Sampling(512, 0.0, 9), Sampling(512, 1.0)]
    with pytest.raises(Refused, match=f"unknown member {MODEL!r}; members: calm, open"):
        admitted(CALM, OPEN, weights={MODEL: 2.0})


def test_the_councils_members_answer_by_default_and_can_be_named() -> None:
    assert admitted(named=(CALM, OPEN)).opening.names == ("calm", "open")
    assert admitted("open", named=(CALM, OPEN)).opening.members == (
        Member(MODEL, sampling=Sampling(512, 0.8), name="open"),
    )
    assert admitted(named=(MemberSpec("gone", "old"),)).opening.names == (MODEL, "other")
    with pytest.raises(Refused, match=r"available: .*calm"):
        admitted("clam", named=(CALM, OPEN))


def test_a_member_without_a_slot_queues_and_a_warning_names_it_and_the_setting() -> None:
    admission = admitted(CALM, OPEN, MODEL, slots=2)
    assert [member.queues for member in admission.opening.members] == [False, False, True]
    assert admission.warnings == (
        f"{MODEL} answers 2 requests at once and 3 members ask it: {MODEL} waits until another has answered; set SLOTS "
        "for it.",
    )
    assert admitted(CALM, OPEN, slots=2).warnings == ()


@pytest.mark.parametrize("option", [{"temperature": 2.5}, {"seed": -1}, {"max_tokens": 0}])
def test_an_option_out_of_range_names_its_member(option: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="of 'calm' is"):
        admitted(MemberSpec(MODEL, "calm", **option))


# --- settings, and the council of a machine ---------------------------------------------------------------------------


def offered(*models: str, api: Any = "gguf") -> Catalogue:
    return Catalogue(
        {model: Offer(ModelFacts(model, residency="absent"), ModelSource(api, model, path="x")) for model in models}
    )


def test_members_in_the_settings_are_the_council_and_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    described = '{"calm": {"model": "m", "temperature": 0}, "critic": {"model": "m", "system": "Doubt."}}'
    monkeypatch.setenv("COUNCIL_MEMBERS", described)
    settings = load_settings(None, {})
    found = council_of(settings, offered("m", "n"), TIERS["mid"])
    assert found.members == (MemberSpec("m", "calm", temperature=0.0), MemberSpec("m", "critic", system="Doubt."))
    assert list(found.models) == ["m"]
    settings = load_settings(None, {"models": ["critic", "n"]})
    assert [spec.display_name for spec in council_of(settings, offered("m", "n"), TIERS["mid"]).members] == [
        "critic", "n",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ('{"7": {"model": "m"}}', "'7' is not a valid name"),
        ('{"calm": {}}', "calm.model"),
        ('{"calm": {"model": "m", "temperature": 3}}', "calm.temperature"),
        ('{"calm": {"model": "m", "colour": "red"}}', "calm.colour"),
    ],
)
def test_a_setting_that_is_not_a_member_is_refused_with_its_key(
    monkeypatch: pytest.MonkeyPatch, described: str, words: str
) -> None:
    monkeypatch.setenv("COUNCIL_MEMBERS", described)
    with pytest.raises(Refused) as caught:
        load_settings(None, {})
    assert words in str(caught.value)


def test_a_file_is_loaded_with_a_slot_for_each_of_its_members() -> None:
    given = {
        "m": ModelSource("gguf", "m", path="x"),
        "n": ModelSource("gguf", "n", path="y", parallel=5),
        "o": ModelSource("ollama", "o"),
    }
    sources = sources_for(given, [MemberSpec("m", name) for name in "abc"])
    assert [source.parallel for source in sources.values()] == [3, 5, 0]
    assert [source.threads > 0 for source in sources.values()] == [True, True, False]


def test_the_default_members_share_one_model_and_have_its_name_and_their_temperature() -> None:
    assert [(spec.model, spec.name, spec.temperature) for spec in BOX_MEMBERS] == [
        ("smollm2", "smollm2-cold", 0.0), ("smollm2", "smollm2-warm", 0.4), ("smollm2", "smollm2-hot", 0.8),
    ]  # fmt: skip


def test_a_record_of_another_version_names_no_members() -> None:
    record = ProcessRecord("c", "council", "h", 1, 0, True, 0, 0.0, {"members": "{", "tier": "mid"})
    assert named_members([record]) == []
    record_with_members = msgspec.structs.replace(record, detail={"members": msgspec.json.encode([CALM]).decode()})
    assert named_members([record_with_members]) == [CALM]


# --- one producer, several members ------------------------------------------------------------------------------------


def opening_of_twins(max_tokens: int = 40) -> Any:
    opening = opening_of(max_tokens=max_tokens)
    usual = opening.sampling
    members = tuple(
        Member(MODEL, name=name, sampling=msgspec.structs.replace(usual, temperature=temperature))
        for name, temperature in (("cold", 0.0), ("hot", 1.0), ("cold-too", 0.0))
    )
    return msgspec.structs.replace(opening, members=members)


async def claims(pipe: AsyncPipe, session: str) -> list[Claim]:
    stream = await token_stream(pipe, session)
    return [entry for _, raw in stream if isinstance(entry := decode_entry(raw), Claim)]


async def test_one_producer_process_serves_all_members_of_its_model(roles: Roles, pipe: AsyncPipe) -> None:
    """Two at temperature 0 have the same answer; the third has its own. Every token is in one frame."""
    roles.ready("aggregator")
    roles.ready("producers", MODEL, "--tokens-per-s", "200")
    opening = opening_of_twins()
    await open_session(pipe, opening)
    await until_ended(pipe, opening.session)
    frames = await check_each_token_in_one_frame(pipe, opening.session)
    cold, hot, cold_too = ("".join(frame.members[index].text for frame in frames) for index in range(3))
    assert cold == cold_too != hot
    assert {(member.model, member.name) for member in frames[0].members} == {
        (MODEL, "cold"), (MODEL, "hot"), (MODEL, "cold-too"),
    }  # fmt: skip
    found = await claims(pipe, opening.session)
    assert sorted(claim.member for claim in found) == [0, 1, 2]
    assert len({claim.producer for claim in found}) == 1


async def until_all_have_begun(pipe: AsyncPipe, session: str) -> None:
    async def all_have_begun() -> bool:
        progress = (await find_session(pipe, session)).progress
        return len(progress) == 3 and all(one.next_seq >= 2 for one in progress)

    await until(all_have_begun, "all three have begun")


async def test_a_producer_that_is_killed_loses_each_member_that_has_begun(roles: Roles, pipe: AsyncPipe) -> None:
    """The next producer finds that all three have begun, and repeats none of their texts."""
    roles.ready("aggregator")
    first = roles.ready("producers", MODEL, "--tokens-per-s", "20")
    opening = opening_of_twins(max_tokens=400)
    await open_session(pipe, opening)
    await until_all_have_begun(pipe, opening.session)
    first.kill()
    roles.ready("producers", MODEL, "--tokens-per-s", "20")
    await until_ended(pipe, opening.session)
    frames = await check_the_law(pipe, opening.session)
    assert [member.state for member in frames[-1].members] == ["dropped"] * 3
    assert {member.reason for member in frames[-1].members} <= {"producer died after it began", "producer gone"}


async def test_a_producer_that_does_not_drain_ends_each_member_that_has_begun(roles: Roles, pipe: AsyncPipe) -> None:
    roles.ready("aggregator")
    only = roles.ready("producers", MODEL, "--tokens-per-s", "20", COUNCIL_DRAIN_S="0")
    opening = opening_of_twins(max_tokens=400)
    await open_session(pipe, opening)
    await until_all_have_begun(pipe, opening.session)
    only.process.send_signal(signal.SIGTERM)
    await until_ended(pipe, opening.session)
    frames = await check_the_law(pipe, opening.session)
    assert [member.reason for member in frames[-1].members] == ["its producer was stopped"] * 3


async def test_the_command_line_takes_descriptions_of_members(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    roles.ready("aggregator")
    roles.ready("producers", MODEL, "--tokens-per-s", "200")
    described = f"calm={MODEL}:temperature=0,seed=1,open={MODEL}:temperature=0,max_tokens=9"
    outcome = council(
        "ask", "What is a list?", "--models", described, "--max-tokens", "20", "--weights", "open=2", "--json",
        url=redis.url,
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    *frames, summary = outcome.lines
    assert [(member["name"], member["model"], member["tokens"]) for member in summary["members"]] == [
        ("calm", MODEL, 20), ("open", MODEL, 9),
    ]  # fmt: skip
    assert [member["name"] for member in frames[0]["members"]] == ["calm", "open"]
    refused = council("ask", "What?", "--models", f"{MODEL},{MODEL}", url=redis.url)
    assert (refused.code, refused.said.count("\n")) == (2, 1)
    assert f"calm={MODEL}" in refused.said
