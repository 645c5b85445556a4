"""The end of a member's answer that has all tokens that were requested: what its server reports with that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from producers.backend import BackendFailed, Chunk, Ending, ModelLoading, ModelWaiting, Piece, Request
from producers.ngram.backend import NgramBackend
from schemas.entries import Finished, Token
from schemas.models import ModelFacts
from tests.producers.member.test_grants import opened, served
from tests.producers.member.test_steering import until_written
from transport.redis.connection import AsyncPipe

MODEL = "scripted"


class Scripted:
    """A model with an answer of three tokens, each a chunk of its own, and what follows it; it then sends nothing."""

    residence, slots, facts = None, 1, ModelFacts(MODEL)

    def __init__(self, follows: Chunk | Ending | BackendFailed | None, *, pauses: bool) -> None:
        self.pauses, self._follows = pauses, follows

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def generate(self, _request: Request) -> AsyncIterator[Chunk | ModelLoading | ModelWaiting | Ending]:
        for text in ("One", " fine", " day"):
            yield Chunk((Piece(text),))
        if isinstance(self._follows, BackendFailed):
            raise self._follows
        if self._follows:
            yield self._follows
        await asyncio.Event().wait()


@pytest.mark.parametrize("pauses", [False, True])
@pytest.mark.parametrize(
    ("follows", "reason", "prompt_tokens"),
    [
        (Ending("length", prompt_tokens=29), "length", 29),
        (Ending("stop", prompt_tokens=29), "stop", 29),
        (Chunk((Piece(" more"),)), "length", None),
        (BackendFailed("the connection broke"), "length", None),
        (None, "length", None),
    ],
)
async def test_an_answer_with_all_its_tokens_ends_with_what_its_server_reports_if_it_reports_that(
    pipe: AsyncPipe,
    follows: Chunk | Ending | BackendFailed | None,
    reason: str,
    prompt_tokens: int | None,
    *,
    pauses: bool,
) -> None:
    """A server that goes on, breaks or falls silent has lost nothing of the answer. The end needs no grant: the last
    token of a model that pauses is past its grant."""
    async with served(pipe, Scripted(follows, pauses=pauses), opened(MODEL, max_tokens=3)) as member:
        await member.commit(0, 8)
        (finished,) = await until_written(member, Finished)
        assert [token.text for token in await member.entries(Token)] == ["One", " fine", " day"]
        assert (finished.reason, finished.tokens, finished.prompt_tokens) == (reason, 3, prompt_tokens)


async def test_a_member_that_is_cut_has_the_tokens_of_its_prompt(pipe: AsyncPipe) -> None:
    opening = opened("ngram:char-6", max_tokens=5)
    async with served(pipe, NgramBackend("ngram:char-6", float("inf")), opening) as member:
        await member.commit(0, None)
        (finished,) = await until_written(member, Finished)
        assert (finished.tokens, finished.prompt_tokens) == (5, len(opening.prompt))
