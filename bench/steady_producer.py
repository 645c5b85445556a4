"""`python -m bench.steady_producer MODEL --tokens-per-s N [--pauses]`: a real producer process with a steady backend.

A real n-gram answer ends by itself after some hundred tokens. This one continues until it is stopped, so that a session
can last for a minute.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from itertools import count

import uvloop

from bench.members import drawn_pieces
from producers.backend import Chunk, Ending, ModelLoading, Request
from producers.process import ProducerProcess
from producers.source import ModelSource
from runtime.environment import redis_from_environment, tier_from_environment
from runtime.log import log_to_stderr
from runtime.role import stop_events
from schemas.models import ModelFacts
from transport.register import ProcessRegistration


class SteadyBackend:
    """Yields a chunk of one token every `1 / tokens_per_s` seconds; a late chunk does not delay the next ones."""

    residence, slots = None, 1

    def __init__(self, seed: int, tokens_per_s: float, *, pauses: bool) -> None:
        self.pauses = pauses
        self.facts = ModelFacts("steady")
        self._chunks = [Chunk((piece,)) for piece in drawn_pieces(seed)]
        self._interval_s = 1.0 / tokens_per_s

    async def start(self) -> None:
        """Nothing to start."""

    async def generate(self, request: Request) -> AsyncIterator[Chunk | ModelLoading | Ending]:
        """Never ends by itself: `request.max_tokens` or a stop ends it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in count(1):
            await asyncio.sleep(began + number * self._interval_s - loop.time())
            yield self._chunks[number % len(self._chunks)]

    async def close(self) -> None:
        """Nothing to close."""


async def _serve(model: str, tokens_per_s: float, *, pauses: bool) -> None:
    stop = stop_events()
    backend = SteadyBackend(sum(model.encode()), tokens_per_s, pauses=pauses)
    log = log_to_stderr("producer").bind(model=model)
    registration = ProcessRegistration("producer", model=model)
    source = ModelSource("ngram", model)
    await ProducerProcess(
        redis_from_environment(), model, source, backend, tier_from_environment(), registration, log, stop
    ).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.steady_producer", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--tokens-per-s", type=float, required=True)
    parser.add_argument("--pauses", action="store_true", help="write only as far as it is granted, as n-gram models do")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.model, arguments.tokens_per_s, pauses=arguments.pauses))


if __name__ == "__main__":
    main()
