"""Councils of n-gram models that write one answer: the laws of a consensus with real backends and tokenizers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import cache
from itertools import permutations
from random import Random

import pytest

from producers.backend import Chunk, Ending, Request, Written
from producers.ngram.backend import NgramBackend
from schemas.control import Steer
from schemas.entries import Finished, Token, pack_top
from schemas.frames import Decision
from schemas.rules.partings import PARTED
from tests.oracle.toy_models import CUTS, ToyModel, drawn_chains
from tests.support.toy_councils import Timing, Toy, ToyProducer, ToyRun

# One model for each kind of tokenizer.
MODELS = ("ngram:word-3", "ngram:char-6", "ngram:bpe-3")
PROMPTS = ("What is a list?", "How does a class work?")
MOST_TOKENS = 40
# Of the longest answer, one token a byte; and some more, because a word is agreed on to its end.
MOST_BYTES = 4 * MOST_TOKENS + 64


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()
        _model.cache_clear()


@cache
def _model(name: str, loop: asyncio.AbstractEventLoop) -> NgramBackend:
    backend = NgramBackend(name, float("inf"))
    loop.run_until_complete(backend.start())
    return backend


def _asked(backend: NgramBackend, prompt: str, prefix: Sequence[Written], tokens: int) -> AsyncIterator[Chunk | Ending]:
    return backend.generate(Request(prompt, "", tokens, 0.0, None, 20, 1_000, prefix=tuple(prefix)))  # type: ignore[return-value]


class NgramProducer(ToyProducer):
    """The producer of one member whose model is an n-gram backend. It asks again with each steer."""

    def __init__(
        self, number: int, toy: Toy, backend: NgramBackend, prompt: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(number, toy, "")
        self._backend, self._prompt, self._loop = backend, prompt, loop
        self._answer = _asked(backend, prompt, (), MOST_BYTES)

    def next_entry(self, now_ns: int) -> Token | Finished | None:
        if self.is_done or not self.claim:
            return None
        now = self.branches.now
        item = self._loop.run_until_complete(anext(self._answer))
        if isinstance(item, Ending):
            self.is_done = True
            top = pack_top(list(item.top))
            return Finished(
                self.number, self.claim, now_ns, len(now.tokens), item.reason, now.number, item.logprob, top
            )
        (piece,) = item.pieces
        self.last = Token(
            self.number, self.claim, len(now.tokens), "answer", piece.text, now_ns, now_ns, piece.logprob,
            piece.quality, piece.piece, pack_top(list(piece.top)), now.number,
        )  # fmt: skip
        self.draft.add(self.last, piece.token)
        now.tokens.append(self.last)
        return self.last

    def follow(self, branch: int, steer: Steer) -> None:
        super().follow(branch, steer)
        self._answer = _asked(self._backend, self._prompt, self.draft.written, MOST_BYTES)


def _written_together(
    loop: asyncio.AbstractEventLoop, prompt: str, members: Sequence[tuple[str, float]], timing: Timing
) -> tuple[str, list[Decision]]:
    """(the answer, its partings) of these (model, weight)."""
    unused = ToyModel(drawn_chains(0), CUTS[0])
    toys = [Toy(unused, weight, most_tokens=MOST_BYTES) for _, weight in members]
    run = ToyRun(toys, timing, MOST_TOKENS)
    run.producers = [
        NgramProducer(number, toys[number], _model(name, loop), prompt, loop)
        for number, (name, _) in enumerate(members)
    ]
    run.to_the_end()
    return run.agreed, [decision for decision in run.decisions if decision.kind in PARTED]


def _timing(seed: int) -> Timing:
    """Members that run ahead of each other, and see their steers late."""
    random = Random(seed)
    schedule = [[(random.randrange(3), random.choice((1, 2, 8))) for _ in range(3)] for _ in range(30)]
    return Timing(schedule, [random.choice((0, 1, 3)) for _ in range(3)], random.choice((1, 2, 5)))


def _alone(loop: asyncio.AbstractEventLoop, name: str, prompt: str) -> str:
    """The model's own greedy answer."""

    async def text() -> str:
        items = _asked(_model(name, loop), prompt, (), MOST_BYTES)
        return "".join([item.pieces[0].text async for item in items if isinstance(item, Chunk)]).lstrip()

    return loop.run_until_complete(text())


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", MODELS)
def test_one_model_twice_is_that_model(name: str, prompt: str, loop: asyncio.AbstractEventLoop) -> None:
    agreed, partings = _written_together(loop, prompt, [(name, 1.0)] * 2, _timing(1))
    assert partings == []
    assert agreed.encode() == _alone(loop, name, prompt).encode()[: 4 * MOST_TOKENS]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", MODELS)
def test_members_without_weight_change_nothing(name: str, prompt: str, loop: asyncio.AbstractEventLoop) -> None:
    others = [(other, 0.0) for other in MODELS if other != name]
    agreed, partings = _written_together(loop, prompt, [others[0], (name, 1.0), others[1]], _timing(2))
    assert partings
    assert {parting.by for parting in partings} == {1}
    assert _alone(loop, name, prompt).encode().startswith(agreed.encode())
    assert len(agreed.encode()) >= 4 * MOST_TOKENS


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_order_and_the_pace_of_members_change_no_text(prompt: str, loop: asyncio.AbstractEventLoop) -> None:
    answers = set[str]()
    for seed, names in enumerate(permutations(MODELS)):
        agreed, partings = _written_together(loop, prompt, [(name, 1.0) for name in names], _timing(seed))
        assert len(partings) > 3
        answers.add(agreed)
    assert len(answers) == 1
