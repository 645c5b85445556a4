"""Who leaves memory for another: never who is in use, nobody in vain, the least recently used first."""

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


def test_nobody_leaves_where_there_is_room() -> None:
    assert evicted([], 8.0) == []
    assert evicted([model("a", 8, 60), model("b", 4, 60)], 4.0) == []


def test_the_least_recently_used_leaves_first_and_nobody_more_than_needed() -> None:
    loaded = [model("a", 8, 60), model("b", 4, 300), model("c", 4, 120)]
    assert evicted(loaded, 4.0) == ["b"]
    assert evicted(loaded, 8.0) == ["b", "c"]
    # b alone would not do, and with a gone b may stay.
    assert evicted([model("a", 12, 60), model("b", 2, 300)], 12.0) == ["a"]


def test_who_is_in_use_or_has_just_been_stays_and_the_answer_is_to_wait() -> None:
    assert evicted([model("a", 12, 60, in_use=True), model("b", 4, 300)], 4.0) == ["b"]
    assert evicted([model("a", 12, 60, in_use=True), model("b", 4, 1)], 4.0) is None
    assert evicted([model("a", 12, COOL_DOWN_MS / 1_000)], 8.0) == ["a"]


def test_the_tiers_and_the_servers_counts_are_kept() -> None:
    six = [model(f"m{i}", 0.1, 60 + i) for i in range(6)]
    assert evicted(six, 0.1) == ["m5"]
    three = [model(f"m{i}", 0.1, 60 + i, most=3) for i in range(3)]
    assert evicted(three, 0.1, most=3) == ["m2"]
    assert evicted(three, 0.1, server=INSIDE) == []
    # At that server somebody has to go: who else is idle elsewhere stays.
    assert evicted([*three, model("old", 0.1, 900, server=INSIDE)], 0.1, most=3) == ["m2"]


def test_a_model_is_counted_against_the_memory_that_it_will_go_to() -> None:
    # Where a server has its models in VRAM the wanted one fills that up, and the rest goes to RAM.
    assert evicted([model("a", 10, 60, vram=True)], 16.0) == []
    assert evicted([model("a", 10, 60, vram=True), model("b", 4, 60, server=INSIDE)], 16.0) == ["a"]
    # A process loads into RAM, whatever is free in VRAM.
    assert evicted([model("a", 12, 60, server=INSIDE)], 8.0, server=INSIDE) == ["a"]
    # A server that has everything in RAM has no VRAM.
    assert evicted([model("a", 12, 60)], 8.0) == ["a"]


def test_what_turned_out_too_large_makes_others_leave_afterwards() -> None:
    loaded = [model("new", 9, 0), model("a", 9, 60), model("b", 1, 90)]
    assert names(models_to_evict(loaded, None, MID, NOW_MS)) == ["a"]
    assert names(models_to_evict([model("new", 9, 0, vram=True)], None, MID, NOW_MS)) == []
    assert models_to_evict([model("new", 20, 0)], None, MID, NOW_MS) is None


def test_a_full_memory_takes_whoever_is_idle_however_recently() -> None:
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
def test_nobody_leaves_who_is_in_use_or_cooling_and_nobody_leaves_in_vain(
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
def test_a_model_whose_size_nobody_knows_is_loaded_and_counted_afterwards(server: str) -> None:
    assert evicted([model("a", 16, 60)], 0.0, server=server) == []
