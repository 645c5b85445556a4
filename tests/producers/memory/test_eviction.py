"""Which models are evicted: none in use, none in vain, the least recently used first."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.memory.eviction import COOL_DOWN_MS, Loaded, Wanted, least_recently_used, models_to_evict
from schemas.rules.tiers import GB, TIERS, TierPolicy

OLLAMA, INSIDE = "http://127.0.0.1:11434", "in process"
NOW_MS = 1_000_000
MID = TIERS["mid"]  # 6 models, 12 GB of VRAM, 16 GB of RAM


def model(name: str, gb: float, age_s: float, *, vram: bool = False, in_use: bool = False, server: str = OLLAMA,
          most: int = 0) -> Loaded:  # fmt: skip
    size = int(gb * GB)
    used_ms = NOW_MS - int(age_s * 1_000)
    return Loaded(name, (server, name), server, 0 if vram else size, size if vram else 0, used_ms, in_use, most)


def names(leaving: tuple[Loaded, ...] | None) -> list[str] | None:
    return None if leaving is None else [one.model for one in leaving]


def evicted(loaded: list[Loaded], gb: float, *, server: str = OLLAMA, most: int = 0, tier: TierPolicy = MID,
            ) -> list[str] | None:  # fmt: skip
    return names(models_to_evict(loaded, Wanted(server, int(gb * GB), most), tier, NOW_MS))


def test_no_model_is_evicted_where_there_is_room() -> None:
    assert evicted([], 8.0) == []
    assert evicted([model("a", 8, 60), model("b", 4, 60)], 4.0) == []


def test_the_least_recently_used_is_evicted_first_and_no_more_than_needed() -> None:
    loaded = [model("a", 8, 60), model("b", 4, 300), model("c", 4, 120)]
    assert evicted(loaded, 4.0) == ["b"]
    assert evicted(loaded, 8.0) == ["b", "c"]
    # b alone would not be enough, and without a, b can stay.
    assert evicted([model("a", 12, 60), model("b", 2, 300)], 12.0) == ["a"]


def test_a_model_in_use_or_used_just_now_stays_and_the_answer_is_to_wait() -> None:
    assert evicted([model("a", 12, 60, in_use=True), model("b", 4, 300)], 4.0) == ["b"]
    assert evicted([model("a", 12, 60, in_use=True), model("b", 4, 1)], 4.0) is None
    assert evicted([model("a", 12, COOL_DOWN_MS / 1_000)], 8.0) == ["a"]


def test_the_limits_of_the_tier_and_of_the_server_are_kept() -> None:
    six = [model(f"m{i}", 0.1, 60 + i) for i in range(6)]
    assert evicted(six, 0.1) == ["m5"]
    three = [model(f"m{i}", 0.1, 60 + i, most=3) for i in range(3)]
    assert evicted(three, 0.1, most=3) == ["m2"]
    assert evicted(three, 0.1, server=INSIDE) == []
    # A model of that server must be evicted: an idle one elsewhere stays.
    assert evicted([*three, model("old", 0.1, 900, server=INSIDE)], 0.1, most=3) == ["m2"]


def test_a_model_counts_against_the_memory_into_which_it_is_loaded() -> None:
    # Where a server has its models in VRAM, the wanted one fills that, and the rest goes to RAM.
    assert evicted([model("a", 10, 60, vram=True)], 16.0) == []
    assert evicted([model("a", 10, 60, vram=True), model("b", 4, 60, server=INSIDE)], 16.0) == ["a"]
    # A process loads into RAM, even if VRAM is free.
    assert evicted([model("a", 12, 60, server=INSIDE)], 8.0, server=INSIDE) == ["a"]
    # A server that has everything in RAM has no VRAM.
    assert evicted([model("a", 12, 60)], 8.0) == ["a"]


def test_a_model_that_is_larger_than_known_evicts_others_afterwards() -> None:
    loaded = [model("new", 9, 0), model("a", 9, 60), model("b", 1, 90)]
    assert names(models_to_evict(loaded, None, MID, NOW_MS)) == ["a"]
    assert names(models_to_evict([model("new", 9, 0, vram=True)], None, MID, NOW_MS)) == []
    assert models_to_evict([model("new", 20, 0)], None, MID, NOW_MS) is None


def test_a_full_memory_evicts_an_idle_model_even_if_it_was_used_just_now() -> None:
    assert least_recently_used([model("a", 1, 1), model("b", 1, 2), model("c", 1, 9, in_use=True)]) == model("b", 1, 2)
    assert least_recently_used([model("c", 1, 9, in_use=True)]) is None


loaded_models = st.lists(
    st.builds(
        model, st.uuids().map(str), st.sampled_from([0.0, 1.0, 4.0, 7.5]), st.sampled_from([0.0, 5.0, 60.0, 300.0]),
        vram=st.booleans(), in_use=st.booleans(), server=st.sampled_from([OLLAMA, INSIDE]),
        most=st.sampled_from([0, 2]),
    ),
    max_size=7,
)  # fmt: skip


@given(loaded_models, st.sampled_from([0.0, 1.0, 6.0, 20.0]), st.sampled_from([OLLAMA, INSIDE]))
def test_no_model_in_use_or_used_just_now_is_evicted_and_none_in_vain(
    loaded: list[Loaded], gb: float, server: str
) -> None:
    wanted = Wanted(server, int(gb * GB))
    leaving = models_to_evict(loaded, wanted, MID, NOW_MS)
    if leaving is None:
        return
    assert all(not one.in_use and NOW_MS - one.used_ms >= COOL_DOWN_MS for one in leaving)
    staying = [one for one in loaded if one not in leaving]
    assert models_to_evict(staying, wanted, MID, NOW_MS) == ()
    for one in leaving:
        pinned = [msgspec.structs.replace(other, in_use=True) for other in [*staying, one]]
        assert models_to_evict(pinned, wanted, MID, NOW_MS) is None


@pytest.mark.parametrize("server", [OLLAMA, INSIDE])
def test_a_model_of_unknown_size_is_loaded_and_counted_afterwards(server: str) -> None:
    assert evicted([model("a", 16, 60)], 0.0, server=server) == []
