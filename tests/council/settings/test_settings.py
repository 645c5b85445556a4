"""Settings: every form has one meaning, each refusal names the line, no message contains a secret."""

from __future__ import annotations

import io
import json
import math
import os
import re
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from council.settings.file import MAX_BYTES
from council.settings.schema import Settings, load_settings
from council.settings.server import keep_alive_s, looks_like_a_key
from council.settings.tier import ProfileSetting, TierSetting
from council.settings.yaml import parse_yaml
from schemas.errors import Refused
from schemas.rules.tiers import PROFILES, TIERS, TierPolicy
from schemas.sessions import EnergyProfile
from tests.support.project import ROOT

T = TypeVar("T")


def _bounds(table: type[pydantic.BaseModel]) -> dict[str, tuple[float, float]]:
    """(the least, the most) of each number of the table."""
    found = {}
    for name, field in table.model_fields.items():
        # A bound may be in the annotation, beside None: MembersAtOnce | None.
        parts = [*field.metadata, *(part for one in get_args(field.annotation) for part in get_args(one)[1:])]
        constraints = [*parts, *(inner for part in parts for inner in getattr(part, "metadata", ()))]
        ends = {kind: getattr(part, kind) for part in constraints for kind in ("ge", "le") if hasattr(part, kind)}
        if ends:
            found[name] = (ends["ge"], ends["le"])
    return found


TIER_BOUNDS, PROFILE_BOUNDS = _bounds(TierSetting), _bounds(ProfileSetting)
SPECIFICATION = "tier_limits:\n  low: 2\n  mid: 4\n  high: 6\n  hybrid: 6\n"
# Each example writes the same file again.
on_disk = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty working directory, and no COUNCIL_ variable."""
    for name in [name for name in os.environ if name.upper().startswith("COUNCIL_") or name == "REDIS_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def loaded(text: str, name: str = "council.toml", **flags: object) -> Settings:
    Path(name).write_text(text, encoding="utf-8")
    return load_settings(Path(name), flags)


def refusal(text: str, name: str = "council.toml") -> str:
    with pytest.raises(Refused) as caught:
        loaded(text, name)
    assert str(caught.value).endswith((".", "?"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def in_toml(value: object) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {in_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


def toml_of(values: Mapping[str, object]) -> str:
    return "".join(f"{key} = {in_toml(value)}\n" for key, value in values.items())


# One meaning


WORDS = st.text(string.ascii_letters + string.digits + " .:/~-_'#{}[]&*!|>%@`äß漢", min_size=1, max_size=12)
MODELS = WORDS.filter(lambda name: name == name.strip())
SERVERS = st.fixed_dictionaries(
    {"url": st.sampled_from(["http://127.0.0.1:8080", "https://models.example.com/v1", "http://[::1]:1/"])},
    optional={
        "models": st.lists(MODELS, min_size=1, max_size=3, unique=True),
        "api": st.sampled_from(["openai", "ollama"]),
        "key_env": st.from_regex(r"[A-Z_][A-Z0-9_]{0,10}", fullmatch=True),
        "remote": st.booleans(),
        "parallel": st.integers(1, 64),
        "max_loaded": st.integers(1, 64),
        "keep_alive": st.integers(1, 86_400) | st.sampled_from(["10m", "1h30m", "5s"]),
    },
)
PROFILE_TABLES = st.fixed_dictionaries(
    {}, optional={"tps_max": st.floats(1, 100), "stall_ms": st.integers(0, 1_000), "smoothing": st.floats(0.001, 1)}
)
TIER_TABLES = st.fixed_dictionaries(
    {},
    optional={
        "max_parallel_models": st.integers(1, 4),
        "max_loaded_models": st.integers(6, 64),
        "vram_budget_gb": st.floats(0, 100_000) | st.integers(0, 100_000),
        "target_fps": st.integers(1, 240),
        "profile": st.sampled_from(sorted(PROFILES)) | PROFILE_TABLES,
    },
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "tier": st.sampled_from(list(TIERS)),
        "models": st.lists(WORDS, max_size=3),
        "host": WORDS,
        "port": st.integers(0, 65_535),
        "redis_url": WORDS,
        "ollama": st.booleans(),
        "allow_remote": st.booleans(),
        "servers": st.dictionaries(st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True), SERVERS, max_size=3),
        "tiers": st.dictionaries(st.sampled_from(list(TIERS)), TIER_TABLES, max_size=4),
        "limits": st.just({"first_token_ms": 90_000}),
        "ngram_tokens_per_s": st.floats(0.1, 1_000),
        "drain_s": st.floats(0, 3_600) | st.integers(0, 3_600),
    },
)


def in_yaml(values: object) -> str:
    """The values as YAML writes them in blocks, with its texts in single quotes."""

    def quoted(value: object) -> object:
        if isinstance(value, str):
            return SingleQuotedScalarString(value)
        if isinstance(value, Mapping):
            return {quoted(key): quoted(inner) for key, inner in value.items()}
        return [quoted(inner) for inner in value] if isinstance(value, list) else value

    written = io.StringIO()
    YAML().dump(quoted(values), written)
    return written.getvalue()


@on_disk
@given(SETTINGS)
@example({"models": ["yes", "1:30", "0x1f", "~", "null", "1e3", "2024-01-01", "1_000", "", "<<", ".inf"]})
@example({"host": "a\u00e4b", "servers": {"1": {"url": "http://h", "models": ["a: b"]}}})
def test_toml_yaml_and_variables_mean_the_same(values: dict[str, Any]) -> None:
    """The same values are the same settings in TOML, in YAML of either style, and in variables."""
    found = loaded(toml_of(values)).model_dump()
    assert loaded(json.dumps(values, ensure_ascii=False), "a.yaml").model_dump() == found
    assert loaded(in_yaml(values), "a.YML").model_dump() == found
    with pytest.MonkeyPatch.context() as environment:
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            environment.setenv(f"COUNCIL_{name.upper()}", text)
        assert load_settings(None, {}).model_dump() == found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("council.yaml", SPECIFICATION),
        ("council.yml", SPECIFICATION),
        ("council.yaml", "tier_limits: {low: 2, mid: 4, high: 6, hybrid: 6}"),
        ("council.toml", "[tier_limits]\nlow = 2\nmid = 4\nhigh = 6\nhybrid = 6\n"),
        ("council.toml", "tier_limits = {low = 2, mid = 4, high = 6, hybrid = 6}"),
    ],
)
def test_the_specifications_tiers_are_the_defaults(name: str, text: str) -> None:
    """The specification's values are the defaults."""
    Path(name).write_text(text)
    assert load_settings(None, {}).tier_policies == TIERS == load_settings(None, {"port": 1}).tier_policies


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_short_form_is_the_long_one(tier: str, most: int) -> None:
    short = loaded(f"tier_limits: {{{tier}: {most}}}", "a.yaml")
    long = loaded(f"[tiers.{tier}]\nmax_parallel_models = {most}\n")
    both = loaded(f"[tiers.{tier}]\nmax_parallel_models = {most}\n[tier_limits]\n{tier} = {most}\n")
    assert short.tier_policies == long.tier_policies == both.tier_policies
    assert short.tier_policies[tier].max_parallel_models == most


def test_toml_comes_before_yaml() -> None:
    Path("council.yaml").write_text("port: 1")
    assert load_settings(None, {}).port == 1
    Path("council.toml").write_text("port = 2")
    assert load_settings(None, {}).port == 2
    assert load_settings(Path("council.yaml"), {}).port == 1


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "---\n", "~", "\ufeffport: 8145\n", "%YAML 1.1\n---\nport: 8145\n"]
)
def test_a_file_that_sets_nothing_new_changes_nothing(text: str) -> None:
    assert loaded(text, "a.yaml") == load_settings(None, {}) == loaded("\ufeff")


@pytest.mark.parametrize("value", ["http://localhost:5173", "null]"])
def test_a_variable_that_is_not_json_is_named_with_its_form(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("COUNCIL_ORIGINS", value)
    with pytest.raises(Refused, match=r'^The variable COUNCIL_ORIGINS is not valid JSON: write a list, such as \["a"'):
        load_settings(None, {})
    monkeypatch.setenv("COUNCIL_ORIGINS", '"null"')
    with pytest.raises(Refused, match=r'^The variable COUNCIL_ORIGINS: write a list, such as \["a", "b"\]\.$'):
        load_settings(None, {})
    monkeypatch.setenv("COUNCIL_ORIGINS", "")
    assert load_settings(None, {}).origins == []


def test_the_environment_outweighs_the_file_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between the short form and the long one: the later source counts, and they do not contradict each other."""
    monkeypatch.setenv("COUNCIL_TIER_LIMITS", '{"low": 1}')
    monkeypatch.setenv("COUNCIL_SERVERS", '{"a": {"url": "http://g", "models": ["m"]}}')
    found = loaded(
        '[tiers.low]\nmax_parallel_models = 2\ntarget_fps = 30\n[servers.a]\nurl = "http://h"\nparallel = 2\n'
    )
    assert (found.tier_policies["low"].max_parallel_models, found.tier_policies["low"].target_fps) == (1, 30)
    server = found.servers["a"]
    assert (server.address, server.models, server.parallel) == ("http://g", ["m"], 2)
    assert loaded("tier_limits: {low: 2}", "a.yaml").tier_policies["low"].max_parallel_models == 1


def test_a_port_that_is_written_anywhere_is_fixed_even_where_it_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed port that is in use is refused; only a default that is not written moves to a free port."""
    assert not loaded("").is_port_chosen
    assert not loaded("", port=None).is_port_chosen
    assert loaded("port = 8145\n").is_port_chosen
    assert loaded("", port=8145).is_port_chosen
    monkeypatch.setenv("COUNCIL_PORT", "8145")
    assert loaded("").is_port_chosen


def test_a_changed_tier_is_used() -> None:
    text = "".join(f"[tiers.{name}]\nmax_parallel_models = 1\n" for name in ("low", "mid", "high"))
    assert loaded(text).tier_policy.max_parallel_models == 1
    assert loaded(text, tier="low").tier_policy == msgspec.structs.replace(TIERS["low"], max_parallel_models=1)
    assert loaded(text, tier="hybrid").tier_policy == TIERS["hybrid"]


def test_a_profile_is_a_name_or_a_table_of_differences() -> None:
    assert loaded('tiers.low.profile = "studio"').tier_policies["low"].profile == PROFILES["studio"]
    found = loaded("tiers.high.profile = {tps_max = 30, stall_ms = 250}").tier_policies["high"].profile
    assert found == msgspec.structs.replace(PROFILES["studio"], tps_max=30.0, stall_ms=250.0)


def test_a_changed_tier_is_the_same_after_json() -> None:
    """Other processes receive it as JSON."""
    found = loaded("[tiers.low]\nvram_budget_gb = 7\nprofile = {tps_min = 1}\n").tier_policies["low"]
    assert msgspec.json.decode(msgspec.json.encode(found), type=TierPolicy) == found


# Refusals


WRONG: dict[str, tuple[tuple[str, ...], object, str]] = {
    "unknown setting": (("speed",), 3, "no such setting"),
    "misspelt setting": (("prot",), 3, "did you mean port?"),
    "a setting of the library that reads them": (("_env_file",), "x", "no such setting"),
    "unknown tier": (("tiers", "huge"), {}, "should be 'low', 'mid', 'high' or 'hybrid'"),
    "unknown tier in short": (("tier_limits", "huge"), 2, "should be 'low', 'mid', 'high' or 'hybrid'"),
    "unknown setting of a tier": (("tiers", "low", "fps"), 2, "known settings: max_parallel_models, "),
    "seven members": (("tiers", "low", "max_parallel_models"), 7, "less than or equal to 6"),
    "no member": (("tier_limits", "low"), 0, "greater than or equal to 1"),
    "true in place of a number": (("tier_limits", "low"), True, "a valid integer"),
    "half a frame": (("tiers", "low", "target_fps"), 0.5, "a valid integer"),
    "more at once than loaded": (
        ("tier_limits", "low"),
        6,
        "6 models answer at once (max_parallel_models), but ",
    ),
    "fewer loaded than at once": (("tiers", "mid", "max_loaded_models"), 3, "4 models answer at once"),
    "unknown profile": (("tiers", "low", "profile"), "fast", "choose one of lite, dual, studio"),
    "profile of a wrong kind": (("tiers", "low", "profile"), 3, "write a table"),
    "unknown setting of a profile": (("tiers", "low", "profile", "tps"), 3, "known settings: tps_max, "),
    "speeds the wrong way round": (("tiers", "low", "profile", "tps_min"), 10.0, "tps_max is 10 and must be above"),
    "silences the wrong way round": (("tiers", "low", "profile", "ceil_ms"), 400, "ceil_ms is 400 and must be above"),
    "a tier that is not a table": (("tiers", "low"), 2, "write a table"),
    "tiers that are not a table": (("tiers",), 2, "write a table"),
    "limits of tiers that are not a table": (("tier_limits",), [2], "write a table"),
    "a limit": (("limits", "life_ms"), 0, "from 1 to 86400000"),
    "server without a URL": (("servers", "a"), {"models": ["m"]}, "servers.a.url: field required"),
    "server of a wrong kind": (("servers", "a"), "http://h", "write a table"),
    "server's name": (("servers", "a b"), {"url": "http://h"}, "letters, digits, - and _"),
    "URL without a host": (("servers", "a", "url"), "http://", "servers.a.url"),
    "URL with port 0": (("servers", "a", "url"), "http://h:0", "the server's address"),
    "URL of another kind": (("servers", "a", "url"), "ftp://h", "http"),
    "URL with a query": (("servers", "a", "url"), "http://h/?x=1", "the server's address"),
    "no models": (("servers", "a", "models"), [], "at least 1"),
    "a model twice": (("servers", "a", "models"), ["m", "n", "m"], "'m' is named twice"),
    "a model's name with a comma": (("servers", "a", "models"), ["a,b"], "without a comma"),
    "unknown interface": (("servers", "a", "api"), "grpc", "'openai' or 'ollama'"),
    "too many at once": (("servers", "a", "parallel"), 65, "less than or equal to 64"),
    "none loaded": (("servers", "a", "max_loaded"), 0, "greater than or equal to 1"),
    "kept too long": (("servers", "a", "keep_alive"), "25h", "from 1 second to 24 hours"),
    "a variable's name": (("servers", "a", "key_env"), "MY KEY", "not the name of an environment variable"),
    "a key": (("servers", "a", "api_key"), "abc", "name that variable with key_env"),
    "not a boolean": (("ollama",), "maybe", "boolean"),
}


def yaml_block(keys: tuple[str, ...], value: object) -> list[str]:
    """Keys below one another, one a line, and the value on the last."""
    lines = ["  " * depth + json.dumps(key) + ":" for depth, key in enumerate(keys)]
    return [*lines[:-1], f"{lines[-1]} {json.dumps(value)}"]


@pytest.mark.parametrize("kind", ["toml", "yaml"])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_with_file_line_and_key(case: str, kind: str) -> None:
    """The line is that of the innermost key that is in the file."""
    keys, value, words = WRONG[case]
    before = ["# settings", "port: 8145" if kind == "yaml" else "port = 8145", ""]
    server = keys[0] == "servers" and len(keys) > 2 and keys[2] != "url"
    if kind == "yaml":
        body = yaml_block(keys, value)
        if server:
            body = [*body[:2], '    "url": "http://h"', *body[2:]]
        wrong_line = len(before) + len(body)
    else:
        above = ".".join(map(json.dumps, keys[:-1]))
        body = [f"[{above}]"] if above else []
        body += ['"url" = "http://h"'] if server else []
        body.append(f"{json.dumps(keys[-1])} = {in_toml(value)}")
        wrong_line = len(before) + len(body)
    after = ["" if kind == "toml" else "host: localhost", "# the end"]
    message = refusal("\n".join([*before, *body, *after]), f"set.{kind}")
    assert message.startswith(f"set.{kind}, line {wrong_line}: {'.'.join(keys[:3])}"), message
    assert words in message


@given(st.data())
@on_disk
def test_the_line_of_a_wrong_setting_is_named_in_any_order(data: st.DataObject) -> None:
    """Valid settings in any order, with one wrong one, blank lines and comments: its line is named."""
    good = [
        (("tiers", "low", "target_fps"), 30),
        (("tiers", "mid", "target_fps"), 31),
        (("tiers", "mid", "max_parallel_models"), 2),
        (("servers", "a", "url"), "http://h"),
        (("servers", "b", "url"), "http://h"),
        (("servers", "b", "parallel"), 2),
        (("limits", "life_ms"), 5_000),
        (("port",), 1),
        (("host",), "target_fps = 0"),
    ]
    bad = data.draw(
        st.sampled_from(
            [(keys, wrong) for (keys, _), wrong in zip(good, [0, 0, 0, "x", "x", 0, 0, -1, 0], strict=True)]
        )
    )
    items = data.draw(st.permutations([bad if keys == bad[0] else (keys, value) for keys, value in good]))
    lines = []
    for keys, value in items:
        lines += data.draw(st.lists(st.sampled_from(["", "# target_fps = 0", "  # [tiers.low]"]), max_size=2))
        lines.append(f"{'.'.join(keys)} = {in_toml(value)}")
    wrong_line = lines.index(f"{'.'.join(bad[0])} = {in_toml(bad[1])}") + 1
    assert refusal("\n".join(lines)).startswith(f"council.toml, line {wrong_line}: {'.'.join(bad[0])}: ")


def test_a_missing_setting_has_the_line_of_its_own_table() -> None:
    text = '[servers.a]\nmodels = ["m"]\n[servers.b]\nurl = "http://h"\n'
    assert refusal(text).startswith("council.toml, line 1: servers.a.url: field required")
    assert refusal("servers:\n  a: {}\n  b:\n    url: http://h", "a.yaml").startswith("a.yaml, line 2: servers.a.url")


@pytest.mark.parametrize("name", ["a.toml", "a.yaml"])
def test_two_forms_that_contradict_each_other_are_refused(name: str) -> None:
    text = toml_of({"tier_limits": {"low": 1}, "tiers": {"low": {"max_parallel_models": 2}}})
    if name == "a.yaml":
        text = "tier_limits: {low: 1}\ntiers: {low: {max_parallel_models: 2}}\n"
    message = refusal(text, name)
    assert message.startswith(
        f"{name}, line 1: tier_limits.low: it contradicts tiers.low.max_parallel_models: keep one"
    )


def test_a_contradiction_of_variables_is_refused_by_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNCIL_TIER_LIMITS", '{"low": 1}')
    monkeypatch.setenv("COUNCIL_TIERS", '{"low": {"max_parallel_models": 2}}')
    assert "The variable COUNCIL_TIER_LIMITS: tier_limits.low: it contradicts" in refusal("")


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("COUNCIL_TIERS", '{"low": {"target_fps": 0}}', "The variable COUNCIL_TIERS: low.target_fps: input should be"),
        ("COUNCIL_TIER_LIMITS", '{"low": 6}', "The variable COUNCIL_TIER_LIMITS: low: 6 models answer at once"),
        ("COUNCIL_TIER", "huge", "The variable COUNCIL_TIER: input should be 'low'"),
        ("COUNCIL_SERVERS", '{"a": {"parallel": 0}}', "The variable COUNCIL_SERVERS: a.parallel: input should be"),
        ("COUNCIL_OLLAMA", "maybe", "The variable COUNCIL_OLLAMA: input should be a valid boolean"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(
    name: str, value: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file sets the same to a valid value."""
    monkeypatch.setenv(name, value)
    text = 'tier = "low"\nollama = true\n[tiers.low]\ntarget_fps = 30\n[servers.a]\nurl = "http://h"\n'
    assert refusal(text).startswith(place)


def test_a_wrong_file_is_named_also_where_a_variable_sets_another_key_of_its_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COUNCIL_TIERS", '{"low": {"target_fps": 30}}')
    assert refusal("[tiers.low]\nvram_budget_gb = -1\n").startswith("council.toml, line 2: tiers.low.vram_budget_gb")


@pytest.mark.parametrize("name", [*TIER_BOUNDS, *PROFILE_BOUNDS])
def test_every_number_is_finite_and_in_its_range(name: str) -> None:
    """The bounds are valid; a number beyond them, and a value that is not a number, is refused with its key."""
    least, most = (TIER_BOUNDS | PROFILE_BOUNDS)[name]
    # The numbers that must be below or above the tested one.
    others = {"max_parallel_models": {"max_loaded_models": 64}, "max_loaded_models": {"max_parallel_models": 1}}
    profiles = {
        "tps_max": {"tps_min": 0},
        "tps_min": {"tps_max": 10_000},
        "ceil_ms": {"stall_ms": 0},
        "stall_ms": {"ceil_ms": 600_000},
    }

    def text(number: object) -> str:
        if name in TIER_BOUNDS:
            return toml_of({"tiers": {"low": others.get(name, {}) | {name: number}}})
        return toml_of({"tiers": {"low": {"profile": profiles.get(name, {}) | {name: number}}}})

    ends = [least, most]
    if name in ("tps_min", "stall_ms"):
        ends[1] -= 1  # another number must be above it
    if name == "ceil_ms":
        ends[0] += 1
    for number in ends:
        policy = loaded(text(number)).tier_policies["low"]
        assert getattr(policy if name in TIER_BOUNDS else policy.profile, name) == number
    for wrong in (least - 1, most + 1, math.nan, math.inf, -math.inf, True, "3", [1], 10**400):
        assert f".{name}: input should be" in refusal(text(wrong))


@given(st.dictionaries(st.sampled_from(sorted(PROFILE_BOUNDS)), st.floats(0, 600_000, width=32)))
@on_disk
def test_a_valid_profile_never_divides_by_zero(table: dict[str, float]) -> None:
    try:
        profile = loaded(toml_of({"tiers": {"low": {"profile": table}}})).tier_policies["low"].profile
    except Refused:
        return
    assert isinstance(profile, EnergyProfile)
    assert profile.tps_max > profile.tps_min >= 0
    assert profile.ceil_ms > profile.stall_ms >= 0
    assert profile.half_life_ms > 0
    assert 0 < profile.smoothing <= 1


# Hostile files


LAUGHS = 'a: &a ["x","x"]\n' + "".join(
    f"{name}: &{name} [*{chr(ord(name) - 1)},*{chr(ord(name) - 1)}]\n" for name in "bcdefghijklmnopqrstuvwxyz"
)
HOSTILE_YAML = {
    "a bomb of aliases": (LAUGHS, "line 1", "anchors (&) are not used"),
    "an alias to nothing": ("port: *secret", "line 1", "aliases (*) are not used"),
    "a merge": ("a: {x: 1}\n<<: *a", "line 2", "aliases (*)"),
    "a constructor": ('host: !!python/object/apply:os.system ["true"]', "line 1", "tags (!)"),
    "a tag": ("port: !!str 3", "line 1", "tags (!)"),
    "a tag of a table": ("tiers: !x {}", "line 1", "tags (!)"),
    "a key that is set twice": ("port: 1\nhost: h\nport: 2", "line 3", "port is set twice"),
    "a key twice deep down": ("tiers:\n  low:\n    target_fps: 1\n    target_fps: 2", "line 4", "tiers.low.target_fps"),
    "a table as a key": ("? {a: 1}\n: 2", "line 1", "a name is a text"),
    "a second document": ("port: 1\n---\nport: 2", "line 2", "another document"),
    "depth": ("a: " + "[" * 20_000, "line 1", "nested too deeply"),
    "depth in blocks": ("- " * 20_000, "line 1", "nested too deeply"),
    "a list": ("- port", "line 1", "`name: value`"),
    "a word": ("port", "line 1", "`name: value`"),
    "not YAML": ("port: 1\nhost: [a", "line 2", "not valid YAML"),
    "a tabulator": ("tiers:\n\tlow: 2", "line 2", "not valid YAML"),
    "a control character": ("port: 1\nhost: \x07", "line 2", "U+0007"),
    "half a character": ('host: "\\ud800"', "line 1", "this value is not valid"),
    "a character that does not exist": ('host: "\\UFFFFFFFF"', "a.yaml", "not valid YAML"),
    "a version that does not exist": ("%YAML " + "9" * 5_000 + "\n---\nport: 1", "a.yaml", "not valid YAML"),
    "a number that does not fit": ("port: " + "9" * 5_000, "line 1", "this value is not valid"),
    "size": ("# " + "x" * MAX_BYTES, "a.yaml", "64 KiB"),
}


@pytest.mark.parametrize("case", HOSTILE_YAML)
def test_hostile_yaml_is_refused_in_one_sentence(case: str) -> None:
    text, place, words = HOSTILE_YAML[case]
    message = refusal(text, "a.yaml")
    assert place in message
    assert words in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 20_000, "not valid TOML: a value is too long or nested too deeply"),
        ("port = " + "9" * 5_000, "not valid TOML: a value is too long or nested too deeply"),
        ("tiers.low.target_fps = 0x" + "f" * 9_000, "target_fps: input should be"),
        ("# " + "x" * MAX_BYTES, "64 KiB"),
    ],
)
def test_hostile_toml_is_refused_in_one_sentence(text: str, words: str) -> None:
    message = refusal(text)
    assert words in message
    assert len(message) < 400


def test_a_file_without_an_end_or_a_folder_is_refused(tmp_path: Path) -> None:
    for config, words in (
        ("/dev/zero", "64 KiB"),
        (str(tmp_path), "Is a directory"),
        ("nowhere.yaml", "no settings file"),
    ):
        with pytest.raises(Refused, match=words):
            load_settings(Path(config), {})


def test_two_surrogates_are_one_character() -> None:
    """JSON, which is YAML, writes a character beyond U+FFFF as two escapes."""
    assert loaded('{"host": "\\ud83d\\ude00"}', "a.yaml").host == "\N{GRINNING FACE}"


SCRAPS = st.lists(
    st.sampled_from(
        ["a", "tiers", "low", "port", ":", " ", "\n", "  ", "- ", "[", "]", "{", "}", ",", "&x", "*x", "!!int", "? ",
         "1", '"', "'", "|\n", ">\n", "---\n", "...\n", "%YAML 1.1\n", "#", "\t", "\\", "~", "=", "<<", "@", "`",
         "\ufeff", "\r", "\0"]
    ),
    max_size=30,
).map("".join)  # fmt: skip


def sentence_or(action: Callable[[], T]) -> T | str:
    """What the action returns, or the message of its refusal."""
    try:
        return action()
    except Refused as error:
        return str(error)


@given(SCRAPS | st.text(max_size=60))
@settings(max_examples=400)
def test_any_text_is_read_as_yaml_or_refused(text: str) -> None:
    """No other error is raised, and each key of the values has a line of the text."""
    found = sentence_or(lambda: parse_yaml(text, "any.yaml"))
    if isinstance(found, str):
        assert found.startswith("any.yaml")
        return
    values, lines = found
    assert isinstance(values, dict)
    assert all(1 <= line <= len(text.splitlines()) for line in lines.values())
    assert {path[0] for path in lines} == set(values)


@given(st.binary(max_size=200), st.sampled_from(["any.toml", "any.yaml"]))
@on_disk
def test_any_bytes_are_read_as_settings_or_refused(data: bytes, name: str) -> None:
    Path(name).write_bytes(data)
    found = sentence_or(lambda: load_settings(Path(name), {}))
    assert isinstance(found, Settings) or name in found


# Servers and secrets


KEYS = [
    "sk-proj-4f8dKq2mZ7xW1pYc9LbT",
    "sk_live_4f8dKq2mZ7xW1pYc9LbT",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEF",
    "gsk_qwertyuiopasdfghjklz",
    "AIzaSyD4f8dKq2mZ7xW1pYc9LbT3nVe6RhUjGk",
    "f3a9c27be01d4485b6fa1c3d5e7f9021",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "Bearer abcdefgh",
    "$MY_KEY",
    "MY_KEY=abc",
    "",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_place_of_a_variables_name_is_refused_and_never_shown(key: str) -> None:
    text = toml_of({"servers": {"a": {"url": "http://h", "key_env": key}}})
    message = refusal(text)
    assert "MY_SERVER_KEY" in message
    assert not key or key not in message


@pytest.mark.parametrize("where", ["file", "variable", "yaml"])
@pytest.mark.parametrize("field", ["key_env", "api_key", "token", "url"])
@given(key=st.text(string.ascii_letters + string.digits + "-._~", min_size=16, max_size=60))
@settings(on_disk, max_examples=15)
def test_no_refusal_contains_a_key(where: str, field: str, key: str) -> None:
    """A key in a wrong place is refused, and no part of the error contains it."""
    value = f"https://me:sk-{key}@example.com" if field == "url" else f"sk-{key}"
    values = {"servers": {"a": {"url": "http://h"} | {field: value}}}
    with pytest.MonkeyPatch.context() as environment:
        text = toml_of(values)
        if where == "variable":
            environment.setenv("COUNCIL_SERVERS", json.dumps(values["servers"]))
            text = ""
        message = refusal(json.dumps(values), "a.yaml") if where == "yaml" else refusal(text)
    assert key not in message
    assert "key_env" in message or "MY_SERVER_KEY" in message


@given(st.from_regex(r"[A-Z]{1,12}(_[A-Z0-9]{1,8}){0,4}", fullmatch=True))
def test_an_ordinary_variables_name_is_not_taken_for_a_key(name: str) -> None:
    assert not looks_like_a_key(name)


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "my_openai_key_for_the_second_server_2", "K", "_", "KEY2", "apiKey"]
)
def test_a_variables_name_is_accepted(name: str) -> None:
    assert loaded(f'servers.a = {{url = "http://h", key_env = "{name}"}}').servers["a"].key_env == name


def test_the_repr_does_not_contain_the_password_of_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    found = loaded('redis_url = "redis://me:swordfish@h/0"')
    assert found.redis_url == "redis://me:swordfish@h/0"
    assert "swordfish" not in f"{found!r} {found!s}"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("10m", 600), ("30s", 30), ("1h", 3_600), ("1h30m", 5_400), ("24h", 86_400), (600, 600), ("600", 600), (1, 1)],
)
def test_keep_alive_is_a_time(value: object, seconds: int) -> None:
    assert keep_alive_s(value) == seconds


@pytest.mark.parametrize(
    "value",
    ["", "x", "0s", 0, -1, "-1", "25h", 86_401, "1.5h", True, None, [1], "m10", "1s1h", "9" * 5_000, "٣s"],
)
def test_an_invalid_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="24 hours"):
        keep_alive_s(value)


def test_a_server_has_a_source_for_each_model() -> None:
    found = loaded(
        '[servers.a]\nurl = "http://h:1/v1/"\napi = "ollama"\nkey_env = "KEY"\nremote = true\nparallel = 2\n'
        'max_loaded = 3\nkeep_alive = "1h"\n[servers.b]\nurl = "http://127.0.0.1:1"\nremote = false\n'
    )
    source = found.servers["a"].source("llama3.2:3b")
    assert (source.api, source.name, source.url, source.key_env) == ("ollama", "llama3.2:3b", "http://h:1/v1", "KEY")
    assert (source.remote, source.parallel, source.max_loaded, source.keep_alive_s) == (True, 2, 3, 3_600)
    plain = found.servers["b"].source("m")
    assert (plain.api, plain.remote, plain.parallel, plain.max_loaded, plain.keep_alive_s) == (
        "openai",
        False,
        0,
        0,
        600,
    )
    assert found.servers["b"].models == []


@pytest.mark.parametrize(
    ("url", "remote"), [("http://127.0.0.1:1", False), ("http://[::1]:1", False), ("https://api.example.com", True)]
)
def test_a_server_is_remote_by_its_address(url: str, remote: bool) -> None:
    assert loaded(f'servers.a.url = "{url}"').servers["a"].source("m").remote is remote


# The page about them


def test_the_page_lists_every_setting_with_its_variable() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    rows = {row[0].split(".")[0]: row[1] for row in re.findall(r"^\| (\S+) \| (COUNCIL_\w+)", page, re.M)}
    assert rows == {name: f"COUNCIL_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("name", [*TIER_BOUNDS, *PROFILE_BOUNDS])
def test_the_page_has_the_defaults_and_the_ranges(name: str) -> None:
    page = (ROOT / "docs/settings.md").read_text()
    least, most = (TIER_BOUNDS | PROFILE_BOUNDS)[name]
    holders = [TIERS[tier] if name in TIER_BOUNDS else TIERS[tier].profile for tier in ("low", "mid", "high")]
    row = next(line for line in page.splitlines() if line.startswith(f"| {name} |")).replace(",", "")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert [float(cell) for cell in cells[1:4]] == [getattr(holder, name) for holder in holders]
    assert cells[4].startswith(f"{least:g} to {most:g}")
