"""How much memory a model takes, before it is loaded: its weights, its context, and what llama.cpp needs to compute."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec

from producers.llama.header import GgufFacts

# A prompt of 32 KiB in English has some 8,000 tokens, the default answer 512: who asks for more has a longer context
# for each of the requests served at once, and most of it empty. Where memory is short, less has to do.
CONTEXTS_TOKENS = (8_192, 4_096, 2_048)
# llama.cpp itself and Python (0.1 GB), and the logits and activations of a batch of 256 tokens (0.1 to 0.2 GB).
WORKING_BYTES = 300 * 10**6


class Footprint(msgspec.Struct, frozen=True):
    """`context_tokens` are those of one slot."""

    context_tokens: int
    weights_bytes: int
    contexts_bytes: int

    @property
    def model_bytes(self) -> int:
        """What the model itself takes: what a list of models shows."""
        return self.weights_bytes + self.contexts_bytes

    @property
    def needed_bytes(self) -> int:
        """What must be free before it is loaded."""
        return self.model_bytes + WORKING_BYTES


class LoadPlan(msgspec.Struct, frozen=True):
    """How a model is loaded. `free_bytes` is what there is for it, None where nobody knows."""

    footprint: Footprint
    free_bytes: int | None
    is_on_gpu: bool = False

    @property
    def fits(self) -> bool:
        return self.free_bytes is None or self.footprint.needed_bytes <= self.free_bytes


def plan_for(facts: GgufFacts, slots: int, free_ram: int | None, free_vram: int) -> LoadPlan:
    """On the graphics card where it fits there whole, else in main memory, with the longest context that fits."""
    on_gpu = LoadPlan(_longest(facts, slots, free_vram), free_vram, is_on_gpu=True)
    return on_gpu if on_gpu.fits else LoadPlan(_longest(facts, slots, free_ram), free_ram)


def _longest(facts: GgufFacts, slots: int, free_bytes: int | None) -> Footprint:
    """The shortest where none fits."""
    trained = facts.context_tokens or CONTEXTS_TOKENS[0]
    for tokens in CONTEXTS_TOKENS:
        context = min(tokens, trained)
        found = Footprint(context, facts.size_bytes, facts.context_token_bytes * context * slots)
        if free_bytes is None or found.needed_bytes <= free_bytes:
            break
    return found


def available_bytes(root: Path = Path("/")) -> int | None:
    """What this machine, and the container around this process, can still give without swapping; None where neither
    tells. The page cache counts as free: it makes way."""
    machine = _numbers(root / "proc/meminfo").get("MemAvailable")
    known = [machine * 1024] if machine is not None else []
    return min([*known, *_left_in_groups(root)], default=None)


def _left_in_groups(root: Path) -> list[int]:
    """What each control group (version 2) around this process still allows."""
    lines = _lines(root / "proc/self/cgroup")
    group = PurePosixPath(next((line[3:] for line in lines if line.startswith("0::/")), "/"))
    found = []
    for path in (group, *group.parents):
        folder = root / "sys/fs/cgroup" / str(path).lstrip("/")
        limit, used = _lines(folder / "memory.max"), _lines(folder / "memory.current")
        if limit and used and limit[0].isdigit() and used[0].isdigit():
            files = _numbers(folder / "memory.stat")
            cache = files.get("active_file", 0) + files.get("inactive_file", 0)
            found.append(max(int(limit[0]) - int(used[0]) + cache, 0))
    return found


def _numbers(path: Path) -> dict[str, int]:
    """The number after each name of such a file, in whatever unit it is."""
    words = [line.replace(":", " ").split() for line in _lines(path)]
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
