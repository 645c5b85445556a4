"""N-gram models as a backend: they answer by the clock, at a pace at which a person can read along."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import lru_cache
from itertools import groupby, islice
from random import Random
from typing import TYPE_CHECKING

import msgspec

from producers.backend import LENGTH, STOP, BackendFailed, Chunk, Ending, ModelLoading, Piece, Request, Written
from schemas.errors import Refused, Unavailable
from schemas.models import ModelFacts

if TYPE_CHECKING:
    # The command line lists the models, without loading numpy and the corpus.
    from producers.ngram.model import NgramModel, PromptedModel
    from producers.ngram.tokenizers import Kind, Tokenizer


class NgramSpec(msgspec.Struct, frozen=True):
    """`order` is n: a token is drawn after the n - 1 before it."""

    kind: Kind
    order: int
    tokens_per_s: float


# The first two, four and six differ as much as possible; each pace is some 45 to 60 characters a second.
_SPECS = {
    "ngram:word-3": NgramSpec("word", 3, 11.0),
    "ngram:char-6": NgramSpec("char", 6, 45.0),
    "ngram:bpe-3": NgramSpec("bpe", 3, 16.0),
    "ngram:word-4": NgramSpec("word", 4, 9.0),
    "ngram:char-8": NgramSpec("char", 8, 52.0),
    "ngram:bpe-2": NgramSpec("bpe", 2, 14.0),
}
NGRAM_MODELS = tuple(_SPECS)


class NgramBackend:
    """One n-gram model.

    It draws a token when the token is taken, so a reader that waits costs nothing (`pauses`). It ignores system texts
    and earlier turns, because it continues its corpus and cannot follow instructions: the tokens of its prompt are
    those of the turn to be answered and of the answer so far.
    """

    pauses = True
    # A token costs 0.1 ms of CPU, so eight sessions at the fastest pace keep one core 4 % busy.
    slots = 8
    # A model has some megabytes and is learnt in a quarter of a second: there is nothing to manage.
    residence = None

    def __init__(self, name: str, tokens_per_s: float | None = None) -> None:
        """`tokens_per_s` replaces the model's own pace; infinity means as fast as possible.

        Raises Refused for a name that is not one of NGRAM_MODELS, and for a pace that is not above 0.
        """
        if name not in _SPECS:
            raise Refused("unknown_model", f"There is no model {name!r}: choose one of {', '.join(NGRAM_MODELS)}.")
        self.name = name
        self._spec = _SPECS[name]
        pace = self._spec.tokens_per_s if tokens_per_s is None else tokens_per_s
        if not pace > 0.0:
            raise Refused("bad_pace", f"The pace of {name} is {pace} tokens a second: give a number above 0.")
        self._interval_s = 1.0 / pace
        self._model: NgramModel | None = None
        # The model, weighted by a prompt: a member of a consensus asks again with each steer.
        self._prompted: Callable[[str], PromptedModel] | None = None

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self.name, continues="yes")

    async def start(self) -> None:
        """Learns, in a thread. Raises Unavailable where this Python has no help topics."""
        self._model = await asyncio.to_thread(_learn, self._spec)
        self._prompted = lru_cache(self.slots)(self._model.prompted)
        _give_memory_back()

    async def generate(self, request: Request) -> AsyncIterator[Chunk | ModelLoading | Ending]:
        """One chunk for each token, by the clock: only a token that is late by a whole interval delays the next one."""
        if self._model is None or self._prompted is None:
            raise BackendFailed(f"the model {self.name} has not learnt yet")
        prompted = self._prompted(request.prompt)
        before, begun = _tokens_of(request.prefix, self._model.tokenizer)
        read = prompted.prompt_tokens + len(before) + bool(begun)
        answer = prompted.answer(request.temperature, Random(request.seed), request.top_k, before, begun)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for drawn in islice(answer, request.max_tokens):
            if not drawn.text:
                yield Ending(STOP, logprob=drawn.logprob, top=drawn.top, prompt_tokens=read)
                return
            due = max(due + self._interval_s, loop.time())
            await asyncio.sleep(due - loop.time())
            yield Chunk((Piece(drawn.text, logprob=drawn.logprob, quality="real", top=drawn.top, token=drawn.token),))
        yield Ending(LENGTH, prompt_tokens=read)

    async def close(self) -> None:
        """Forgets."""
        self._model = self._prompted = None


def _tokens_of(prefix: Sequence[Written], tokenizer: Tokenizer) -> tuple[list[int], str]:
    """(the tokens of the answer so far, the end of it with which the next token begins)."""
    tokens: list[int] = []
    begun = ""
    for is_own, stretches in groupby(prefix, key=lambda stretch: bool(stretch.ids)):
        if is_own:
            tokens += [token for stretch in stretches for token in stretch.ids]
            begun = ""
        else:
            given, begun = tokenizer.begun("".join(stretch.text for stretch in stretches))
            tokens += given
    return tokens, begun


def _give_memory_back() -> None:
    """Returns the memory that learning took to the system: otherwise glibc keeps 2 to 8 MB of it."""
    import ctypes  # numpy has imported it

    with contextlib.suppress(AttributeError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)


def _learn(spec: NgramSpec) -> NgramModel:
    from producers.ngram.corpus import load_passages
    from producers.ngram.model import NgramModel

    try:
        passages = load_passages()
    except ImportError:
        raise Unavailable(
            "The n-gram models learn from Python's help topics (pydoc_data), which are missing in this Python: install "
            "the full standard library, or name other models."
        ) from None
    return NgramModel(spec.kind, spec.order, passages)
