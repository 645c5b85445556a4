"""How much memory a model takes, before it is loaded: its weights, its context, and what llama.cpp needs to compute.

Pure: what is free is an argument.
"""

from __future__ import annotations

import msgspec

from producers.llama.file import GgufFacts

# A prompt of 32 KiB in English has some 8,000 tokens, the default answer 512. A longer context would cost memory for
# each of the requests served at once, and most of it would stay empty. Where memory is short, less must do.
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
        """What the model itself takes, as a list of models shows it."""
        return self.weights_bytes + self.contexts_bytes

    @property
    def needed_bytes(self) -> int:
        """What must be free before it is loaded."""
        return self.model_bytes + WORKING_BYTES


class LoadPlan(msgspec.Struct, frozen=True):
    """How a model is loaded into the memory that is free."""

    footprint: Footprint
    free_bytes: int
    is_on_gpu: bool = False

    @property
    def fits(self) -> bool:
        return self.footprint.needed_bytes <= self.free_bytes


def plan_for(facts: GgufFacts, slots: int, free_ram: int, free_vram: int) -> LoadPlan:
    """On the graphics card where the whole model fits there, else in main memory, with the longest context that
    fits."""
    on_gpu = LoadPlan(_longest(facts, slots, free_vram), free_vram, is_on_gpu=True)
    return on_gpu if on_gpu.fits else LoadPlan(_longest(facts, slots, free_ram), free_ram)


def _longest(facts: GgufFacts, slots: int, free_bytes: int) -> Footprint:
    """The shortest context where none fits."""
    trained = facts.context_tokens or CONTEXTS_TOKENS[0]
    for tokens in CONTEXTS_TOKENS:
        context = min(tokens, trained)
        found = Footprint(context, facts.size_bytes, facts.context_token_bytes * context * slots)
        if found.needed_bytes <= free_bytes:
            break
    return found
