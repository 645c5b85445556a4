"""Named councils: how the settings describe one, which models are started for it, and what a request gets of it."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest

from council.models.catalogue import Catalogue
from council.models.membership import MOST_SERVED, CouncilModels, council_of
from council.settings.schema import Settings, load_settings
from producers.source import ModelSource, Offer
from schemas.errors import Refused
from schemas.models import ModelFacts
from schemas.processes import ProcessRecord
from schemas.rules.admission import admit
from schemas.rules.councils import COUNCIL_VALUES, with_named_council
from schemas.rules.served import named_councils
from schemas.rules.tiers import TIERS
from schemas.sessions import Limits, MemberSpec, NamedCouncil, Opening, SessionRequest
from tests.support.council_command import council
from tests.support.running_council import Up

MEMBERS = '[members.calm]\nmodel = "m1"\ntemperature = 0\nsystem = "Be calm."\n'
TRIO = """
[councils.trio]
members = ["calm", "m2", "critic=m1:temperature=0.9"]
weights = { calm = 2 }
options = { critic = { seed = 7 } }
sync = "free"
temperature = 0.3
max_tokens = 100
"""
AS_WRITTEN = NamedCouncil(
    "trio",
    ("calm", "m2", "critic=m1:temperature=0.9"),
    {"calm": 2.0},
    {"critic": {"seed": 7}},
    sync="free",
    temperature=0.3,
    max_tokens=100,
)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("COUNCIL_COUNCILS", "COUNCIL_MEMBERS", "COUNCIL_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def loaded(text: str, name: str = "council.toml") -> Settings:
    Path(name).write_text(text)
    return load_settings(Path(name), {})


def found(*models: str) -> Catalogue:
    return Catalogue({name: Offer(ModelFacts(name), ModelSource("openai", name), ("completion",)) for name in models})


def served(text: str, *models: str) -> CouncilModels:
    return council_of(loaded(text), found(*(models or ("m1", "m2", "m3"))), TIERS["mid"])


def opened(*councils: NamedCouncil, given: tuple[str, ...] = (), **request: Any) -> Opening:
    facts = [ModelFacts("m1", slots=8), ModelFacts("m2"), ModelFacts("m3")]
    named = (MemberSpec("m1", "calm", temperature=0.0, system="Be calm."),)
    asked = SessionRequest(**({"prompt": "Why?", "models": ("trio",)} | request))
    return admit(asked, "s", facts, TIERS["mid"], Limits(), named=named, councils=councils, given=given).opening


# --- settings ---------------------------------------------------------------------------------------------------------


def test_toml_yaml_and_the_variable_describe_the_same_council(monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = """
members:
  calm: {model: m1, temperature: 0, system: Be calm.}
councils:
  trio:
    members:
      - calm
      - m2
      - critic=m1:temperature=0.9
    weights: {calm: 2}
    options:
      critic: {seed: 7}
    sync: free
    temperature: 0.3
    max_tokens: 100
"""
    assert loaded(MEMBERS + TRIO).named_councils == loaded(yaml, "a.yaml").named_councils == (AS_WRITTEN,)
    as_json = msgspec.to_builtins(AS_WRITTEN)
    monkeypatch.setenv("COUNCIL_COUNCILS", msgspec.json.encode({as_json.pop("name"): as_json}).decode())
    assert loaded(MEMBERS).named_councils == (AS_WRITTEN,)


SEVEN = "[" + ", ".join(f'"x{i}=m1"' for i in range(7)) + "]"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("speed = 1", "trio.speed: there is no such setting; known settings: members, weights, options, sync, "),
        ("members = []", "trio.members: list should have at least 1 item."),
        (f"members = {SEVEN}", "trio.members: list should have at most 6 items."),
        ('members = "m1"', "trio.members: write a list, such as"),
        ("members = [3]", "trio.members.0: input should be a valid string"),
        ('members = ["m1", "m1"]', "trio.members.1: 'm1' is named twice: give each member a name of its own"),
        ('members = ["calm", "calm=m2"]', "trio.members.1: 'calm' is named twice"),
        ('members = ["m1", "x=m1:speed=3"]', "trio.members.1: 'x=m1:speed=3' has an unknown option 'speed'"),
        ('members = ["x=m1:temperature=9"]', "trio.members.0: temperature of 'x=m1:temperature=9' is 9.0: give a num"),
        ('members = ["x=m1:seed=-1"]', "trio.members.0: seed of 'x=m1:seed=-1' is -1: give a whole number from 0"),
        ('members = ["x=calm"]', "trio.members.0: 'x=calm' has no model, because 'calm' is a member"),
        ('members = ["m1", "duo"]', "trio.members.1: 'duo' is a council, which cannot be a member"),
        ('members = ["x=trio"]', "trio.members.0: 'trio' is a council, which cannot be a member"),
        ("weights = { m9 = 1 }", "trio.weights.m9: 'm9' is not a member of this council: its members are m1, calm"),
        ("weights = { m1 = -1 }", "trio.weights.m1: input should be greater than or equal to 0"),
        ("weights = { m1 = inf }", "trio.weights.m1: input should be a finite number"),
        ("weights = { m1 = 0, calm = 0 }", "trio.weights: all weights are 0"),
        ("weights = { m1 = 1e308, calm = 1e308 }", "trio.weights: their sum is too large for a number"),
        ("weights = [1]", "trio.weights: write a table of names and values"),
        ("options = { x = { seed = 1 } }", "trio.options.x: 'x' is not a member of this council"),
        ("options = { m1 = { top_p = 1 } }", "trio.options.m1.top_p: there is no such setting; known settings: tempe"),
        ("options = { m1 = { temperature = 3 } }", "trio.options.m1.temperature: input should be less than or equal"),
        ("options = { m1 = 3 }", "trio.options.m1: write a table of names and values"),
        ('sync = "slow"', "trio.sync: input should be 'step', 'free' or 'consensus'"),
        ('weighting = "loud"', "trio.weighting: input should be 'fixed' or 'certainty'"),
        ("temperature = true", "trio.temperature: input should be a valid number"),
        ("max_tokens = 0", "trio.max_tokens: input should be greater than or equal to 1"),
        ("seed = 4294967296", "trio.seed: input should be less than 4294967296"),
        (f'system = "{"x" * 32_769}"', "trio.system: the system text has 32769 bytes, and the limit is 32768"),
        ("system = 1", "trio.system: input should be a valid string"),
    ],
)
def test_a_wrong_council_is_refused_with_file_line_and_key(line: str, words: str) -> None:
    members = [] if line.startswith("members") else ['members = ["m1", "calm"]']
    text = MEMBERS + "\n".join(['[councils.duo]\nmembers = ["m1"]\n[councils.trio]', *members, line])
    with pytest.raises(Refused) as caught:
        loaded(text)
    number = text.split("\n").index(line) + 1
    assert str(caught.value).startswith(f"council.toml, line {number}: councils.{words}"), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("consensus", "this name is reserved: give the council another one"),
        ("council", "this name is reserved: give the council another one"),
        ("calm", "a member has this name: give the council another one"),
        ('"7"', "'7' is not a valid name"),
        ("seed", "'seed' is not a valid name"),
    ],
)
def test_a_council_has_a_name_that_no_other_id_has(name: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        loaded(f'{MEMBERS}[councils.{name}]\nmembers = ["m1"]\n')
    assert str(caught.value).startswith(f"council.toml, line 5: councils.{name.strip(chr(34))}: {words}")


def test_a_table_named_like_another_kind_of_table_lists_its_own_settings() -> None:
    with pytest.raises(Refused, match="known settings: model, temperature"):
        loaded('[members.profile]\nmodel = "m1"\nspeed = 1\n')


# --- what is started --------------------------------------------------------------------------------------------------


def test_models_of_a_council_are_served_and_do_not_answer_a_request_that_names_none() -> None:
    models = served('models = ["m3"]\n' + MEMBERS + TRIO)
    assert list(models.models) == ["m3", "m1", "m2"]
    assert models.members == (MemberSpec("m3"),)
    calm = MemberSpec("m1", "calm", temperature=0.0, system="Be calm.")
    critic = MemberSpec("m1", "critic", temperature=0.9)
    assert models.councils == (msgspec.structs.replace(AS_WRITTEN, members=(calm, MemberSpec("m2"), critic)),)
    assert models.warnings == ()


def test_a_member_of_the_settings_is_written_into_a_council_by_its_name_alone() -> None:
    """The record of a council is written each second: a long system text is in it once."""
    assert served(MEMBERS + TRIO).councils[0].members[0] == "calm"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[councils.a]\nmembers = ["m1", "m9"]', "There is no model 'm9' here; available: m1, m2, m3."),
        ('[councils.a]\nmembers = ["a=m1", "a=m2"]', ""),
        ('[councils.m2]\nmembers = ["m1"]', "A model or a member has its name: rename the council."),
        ('[councils.a]\nmembers = ["m2", "m3"]', f"A council serves {MOST_SERVED} models: name fewer."),
    ],
)
def test_a_council_that_cannot_answer_is_left_out_by_name(text: str, words: str) -> None:
    if not words:
        with pytest.raises(Refused, match="'a' is named twice"):
            loaded(text)
        return
    many = [f"n{i}" for i in range(MOST_SERVED - 1)] if "fewer" in words else ["m1"]
    found_models = [*many, "m1", "m2", "m3"]
    models = served(f"models = {msgspec.json.encode(many).decode()}\n{text}\n", *dict.fromkeys(found_models))
    name = text[len("[councils.") : text.index("]")]
    assert models.councils == ()
    assert list(models.models) == many
    assert models.warnings == (f"The council {name} is left out: {words}",)


# --- what a request gets ----------------------------------------------------------------------------------------------


def test_a_request_for_a_council_has_its_members_weights_options_and_values() -> None:
    opening = opened(AS_WRITTEN)
    assert [(member.display_name, member.model, member.weight) for member in opening.members] == [
        ("calm", "m1", 2.0),
        ("m2", "m2", 1.0),
        ("critic", "m1", 1.0),
    ]
    assert [opening.sampling_of(index).temperature for index in range(3)] == [0.0, 0.3, 0.9]
    assert opening.sampling_of(2).seed == 7
    assert (opening.sync, opening.sampling.max_tokens, opening.members[0].system) == ("free", 100, "Be calm.")


def test_values_of_the_request_outweigh_those_of_the_council() -> None:
    every = msgspec.structs.replace(AS_WRITTEN, weighting="certainty", system="Short.", seed=3)
    asked = {
        "sync": "consensus",
        "weighting": "fixed",
        "system": "Long.",
        "max_tokens": 9,
        "temperature": 1.0,
        "seed": 4,
    }
    request = SessionRequest("Why?", ("trio",), {"m2": 3.0}, options={"critic": {"seed": 8}}, **asked)  # type: ignore[arg-type]
    merged = with_named_council(request, [every], given=["weighting"])
    assert {name: getattr(merged, name) for name in COUNCIL_VALUES} == asked
    assert merged.weights == {"calm": 2.0, "m2": 3.0}
    assert merged.options == {"critic": {"seed": 8}}


def test_a_default_counts_where_the_client_has_sent_it() -> None:
    assert opened(AS_WRITTEN, max_tokens=512).sampling.max_tokens == 100
    assert opened(AS_WRITTEN, max_tokens=512, given=("max_tokens",)).sampling.max_tokens == 512
    with_seed = msgspec.structs.replace(AS_WRITTEN, seed=3)
    assert opened(with_seed, seed=None, given=("seed",)).sampling.seed == 3


def test_a_council_beside_other_members_and_an_unknown_model_are_refused_by_name() -> None:
    with pytest.raises(Refused, match="'trio' is a council, which cannot be a member: name it alone"):
        opened(AS_WRITTEN, models=("m2", "trio"))
    with pytest.raises(Refused, match=r"There is no model 'tri' here; .* Councils: trio\."):
        opened(AS_WRITTEN, models=("tri",))


def test_councils_are_read_from_the_record_of_the_council_alone() -> None:
    def record(role: Any, written: str) -> ProcessRecord:
        return ProcessRecord("p", role, "h", 1, 0, True, 0, 0.0, {"councils": written})

    wire = msgspec.json.encode([AS_WRITTEN]).decode()
    assert named_councils([record("producer", wire)]) == []
    assert named_councils([record("council", "[{}]")]) == []
    assert named_councils([record("producer", "x"), record("council", wire)]) == [AS_WRITTEN]


# --- a real council ---------------------------------------------------------------------------------------------------


REAL = """
ollama = false
models = ["ngram:char-6"]
[members.calm]
model = "ngram:bpe-2"
temperature = 0
[councils.duo]
members = ["calm", "word=ngram:word-3:seed=5"]
weights = { calm = 3 }
max_tokens = 5
"""


def asked(up: Up, path: str, **body: object) -> Any:
    """The response of the running council: its JSON, or the sentence of its refusal."""
    data = msgspec.json.encode(body) if body else None
    request = urllib.request.Request(up.address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as response:
            return msgspec.json.decode(response.read())
    except urllib.error.HTTPError as refusal:
        return msgspec.json.decode(refusal.read())["error"]["message"]


def test_a_running_council_answers_for_a_council_of_its_settings(tmp_path: Path) -> None:
    """A value of the council counts unless the request has it: over HTTP as a field, in the command as a flag."""
    (tmp_path / "council.toml").write_text(REAL)
    with contextlib.closing(Up(tmp_path, default_models=True, tokens_per_s=400)) as up:
        assert "council: Ready: ngram:char-6.\ncouncil: Councils: duo.\n" in up.text()
        (listed,) = asked(up, "/api/models")["councils"]
        assert listed == {"name": "duo", "members": ["calm", "word"], "weights": {"calm": 3.0}}
        assert asked(up, "/api/sessions", prompt="?", models=["duo"])["names"] == ["calm", "word"]
        assert asked(up, "/api/sessions", prompt="?", models=["dup"]).endswith(" Councils: duo.")
        chat = [{"role": "user", "content": "What is a list?"}]
        answer = asked(up, "/v1/chat/completions", model="council:duo", messages=chat)
        assert [one["tokens"] for one in answer["council"]["members"]] == [5, 5]
        longer = council(
            "ask", "What is a list?", "--models", "duo", "--max-tokens", "512", "--json", TMPDIR=str(tmp_path)
        )
        assert longer.code == 0, longer.said
        assert max(one["tokens"] for one in longer.lines[-1]["members"]) > 5
