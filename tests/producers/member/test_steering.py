"""Members of a council that agrees on one text, and of a what-if session. On a real Redis, with the state that an
aggregator's commits would write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from producers.backend import BackendFailed, Chunk, Ending, ModelLoading, ModelWaiting, Piece, Request, Written
from producers.member.serving import DIED_AFTER_IT_BEGAN
from producers.ngram.backend import NgramBackend
from schemas import keys
from schemas.control import NOT_STARTED, Progress, Steer, encode_progress
from schemas.entries import Alive, AnyEntry, Claim, Failed, Finished, Steered, Token, unpack_top
from schemas.models import ModelFacts
from schemas.sessions import Opening, Sampling
from tests.producers.member.test_grants import Served, opened, served, state_reads
from tests.support.sessions import opening_of
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session
from transport.tokens import write_entry

MODEL = "scripted"
NGRAM = "ngram:bpe-2"


class Scripted:
    """A model whose continuation of each text a test sets: pieces, and an Ending, an error, or nothing, where it writes
    nothing more. `closed` counts the generations that were stopped or have ended."""

    residence, slots, facts = None, 1, ModelFacts(MODEL)

    def __init__(self, continuations: dict[str, Sequence[str | Ending | BackendFailed]], *, pauses: bool) -> None:
        self.pauses, self.continuations = pauses, continuations
        self.asked: list[Request] = []
        self.closed = 0

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def generate(self, request: Request) -> AsyncIterator[Chunk | ModelLoading | ModelWaiting | Ending]:
        self.asked.append(request)
        try:
            for number, item in enumerate(self.continuations[request.prefix_text], len(request.prefix_text)):
                if isinstance(item, BackendFailed):
                    raise item
                yield item if isinstance(item, Ending) else Chunk((Piece(item, token=number),))
            await asyncio.Event().wait()
        finally:
            self.closed += 1


def consensus(model: str = MODEL, max_tokens: int = 64, **changed: Any) -> Opening:
    return opened(model, max_tokens, sync="consensus", **changed)


async def commit(
    member: Served, window: int, next_seq: int = 0, steer: Steer | None = None, branch: int = 0, *,
    grant: int | None = None, ended: bool = False,
) -> None:  # fmt: skip
    """What a window's commit leaves in the state for the producer."""
    progress = encode_progress((Progress(await member.claim(), next_seq, ended, grant, branch, steer),))
    await member.pipe.one("HSET", keys.state(member.opening.session), "window", window, "progress", progress)


async def until_written(member: Served, kind: type[AnyEntry], count: int = 1) -> list[Any]:
    """The entries of this kind, once there are so many."""

    async def are_written() -> list[Any]:
        found = await member.entries(kind)
        return found if len(found) >= count else []

    return await until(are_written, f"{count} of {kind.__name__} are written")


async def until_read(pipe: AsyncPipe) -> None:
    """Returns when the producer has read the state, and has had time to use it."""
    before = await state_reads(pipe)

    async def was_read() -> bool:
        return await state_reads(pipe) > before + 3

    await until(was_read, "the state was read")


def placed(tokens: Sequence[Token], branch: int) -> list[tuple[int, str]]:
    """(seq, text) of each token of the branch."""
    return [(token.seq, token.text) for token in tokens if token.branch == branch]


@pytest.mark.parametrize("pauses", [False, True])
async def test_a_steered_member_keeps_its_tokens_before_the_steer_and_continues_the_given_text(
    pipe: AsyncPipe, *, pauses: bool
) -> None:
    """
    branch 0   " The" " sky" " was" | and writes on      steered at 7: " is"
    branch 1                            " red" "." and its end
    """
    end = Ending("stop", logprob=-0.25, top=((b"", -0.25),))
    backend = Scripted({"": [" The", " sky", " was"], " The sky is": [" red", ".", end]}, pauses=pauses)
    async with served(pipe, backend, consensus()) as member:
        await until_written(member, Claim)
        await commit(member, 0, grant=99 if pauses else None)
        await until_written(member, Token, 3)
        await commit(member, 1, 3, grant=99 if pauses else None)
        assert backend.closed == 0
        await commit(member, 2, 0, Steer(7, 10, " is"), 1, grant=99 if pauses else None)
        (finished,) = await until_written(member, Finished)
        first, second = backend.asked
        assert (first.prefix, first.temperature, first.max_tokens) == ((), 0.0, 64)
        assert second.prefix == (Written(" The sky", (0, 1)), Written(" is"))
        assert second == msgspec.structs.replace(first, prefix=second.prefix, max_tokens=64 - 2)
        assert backend.closed == 2
        tokens = await member.entries(Token)
        assert placed(tokens, 1) == [(0, " red"), (1, ".")]
        assert (finished.branch, finished.tokens, finished.reason, finished.logprob) == (1, 2, "stop", -0.25)
        assert unpack_top(finished.top) == [(b"", -0.25)]


@pytest.mark.parametrize("pauses", [False, True])
async def test_a_late_member_begins_with_the_text_that_was_agreed_before_its_first_token(
    pipe: AsyncPipe, *, pauses: bool
) -> None:
    backend = Scripted({"": [], "Once upon a time": [" there"]}, pauses=pauses)
    async with served(pipe, backend, consensus()) as member:
        await until_written(member, Claim)
        await commit(member, 5, 0, Steer(0, 16, "Once upon a time"), 1, grant=NOT_STARTED if pauses else None)
        if pauses:
            await commit(member, 6, 0, Steer(0, 16, "Once upon a time"), 1, grant=15)
            await until_read(pipe)
            assert backend.asked == []
        await commit(member, 7, 0, Steer(0, 16, "Once upon a time"), 1, grant=16 if pauses else None)
        assert placed(await until_written(member, Token), 1) == [(0, " there")]
        last = backend.asked[-1]
        assert (last.prefix, last.max_tokens) == ((Written("Once upon a time"),), 64 - 16 // 4)


async def test_a_draft_that_has_ended_is_steered_again_and_may_end_without_a_token(pipe: AsyncPipe) -> None:
    """It gives signs of life until its session ends, and leaves nothing behind."""
    backend = Scripted({"": ["No", Ending("stop")], "Yes": [Ending("stop")]}, pauses=False)
    before = asyncio.all_tasks()
    async with served(pipe, backend, consensus()) as member:
        await until_written(member, Finished)
        await commit(member, 1, 1, ended=True)
        count = len(await member.entries(Alive))
        await until_written(member, Alive, count + 2)
        await commit(member, 2, 0, Steer(0, 3, "Yes"), 1)
        *_, finished = await until_written(member, Finished, 2)
        assert (finished.branch, finished.tokens, finished.reason) == (1, 0, "stop")
        await pipe.one("HSET", keys.state(member.opening.session), "status", "ended")
        async with asyncio.timeout(10):
            await member.task
        assert asyncio.all_tasks() == before


async def test_a_model_that_cannot_continue_fails_with_its_sentence(pipe: AsyncPipe) -> None:
    sentence = "its server begins every answer anew"
    backend = Scripted({"": ["No"], "Yes": [BackendFailed(sentence)]}, pauses=False)
    async with served(pipe, backend, consensus()) as member:
        await until_written(member, Token)
        await commit(member, 1, 0, Steer(0, 3, "Yes"), 1)
        (failed,) = await until_written(member, Failed)
        assert (failed.reason, failed.branch) == (sentence, 1)


async def test_what_is_left_of_max_tokens_is_at_least_one(pipe: AsyncPipe) -> None:
    """Of four, two own tokens are kept, and eight bytes of given text count as two."""
    backend = Scripted({"": ["a", "b", "c"], "ab, 67890": ["d", "e", "f"]}, pauses=False)
    async with served(pipe, backend, consensus(max_tokens=4)) as member:
        await until_written(member, Token, 3)
        await commit(member, 1, 0, Steer(2, 9, ", 67890"), 1)
        (finished,) = await until_written(member, Finished)
        assert (backend.asked[-1].max_tokens, finished.tokens, finished.reason) == (1, 1, "length")


class Hasty:
    """A model that yields with every turn of the loop; each token names the text that it continues."""

    pauses, residence, slots, facts = False, None, 1, ModelFacts("hasty")

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def generate(self, request: Request) -> AsyncIterator[Chunk | ModelLoading | ModelWaiting | Ending]:
        for _ in range(request.max_tokens):
            await asyncio.sleep(0)
            yield Chunk((Piece(f"<{request.prefix_text[-1:]}>"),))
        yield Ending("length")


async def test_text_of_an_earlier_branch_that_arrives_after_a_steer_is_dropped(pipe: AsyncPipe) -> None:
    async with served(pipe, Hasty(), consensus("hasty", max_tokens=4_000)) as member:
        await until_written(member, Token)
        for branch in range(1, 4):
            await commit(member, branch, 0, Steer(0, 1, str(branch)), branch)

            async def has_begun(branch: int = branch) -> bool:
                return any(token.branch == branch for token in await member.entries(Token))

            await until(has_begun, f"branch {branch} has begun")
        tokens = await member.entries(Token)
        assert {(token.branch, token.text) for token in tokens} == {
            (branch, f"<{branch or ''}>") for branch in range(4)
        }  # fmt: skip
        for branch in range(4):
            seqs = [token.seq for token in tokens if token.branch == branch]
            assert seqs == list(range(len(seqs)))


async def test_after_a_break_the_state_is_read_first_and_a_steer_in_it_is_obeyed(pipe: AsyncPipe) -> None:
    """
    branch 1   "a" "b" "c"      the connection breaks: the aggregator has "a", and needs the second token
    branch 2   raised while the connection is broken
    """
    backend = Scripted({"": [], "1": ["a", "b", "c"], "1a2": ["d"]}, pauses=False)
    async with served(pipe, backend, consensus()) as member:
        await until_written(member, Claim)
        first = Steer(0, 1, "1")
        await commit(member, 1, 0, first, 1)
        await until_written(member, Token, 3)
        await commit(member, 2, 1, first, 1)
        await pipe.one("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        tokens = await until_written(member, Token, 5)
        assert placed(tokens, 1) == [(0, "a"), (1, "b"), (2, "c"), (1, "b"), (2, "c")]
        await commit(member, 3, 0, Steer(2, 3, "2"), 2)
        await pipe.one("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert placed(await until_written(member, Token, 6), 2) == [(0, "d")]
        assert backend.asked[-1].prefix == (Written("1"), Written("a", (1,)), Written("2"))


async def test_a_member_that_was_steered_before_its_first_token_is_served_by_the_next_producer(pipe: AsyncPipe) -> None:
    """Its first producer died before the model wrote anything."""
    opening = consensus()
    backend = Scripted({"": [], "Once": [" upon"]}, pauses=False)
    async with served(pipe, backend, opening) as member:
        await until_written(member, Claim)
        await pipe.one(*write_entry(opening.session, Steered(0, 1, 0, "Once")))
        async with served(pipe, backend, opening, opens=False) as successor:
            *_, last = await successor.claims(2)
            progress = encode_progress((Progress(last, 0, False, None, 1, Steer(0, 4, "Once")),))
            await pipe.one("HSET", keys.state(opening.session), "window", 1, "progress", progress)
            (token,) = await until_written(successor, Token)
            assert (token.claim, token.branch, token.text) == (last, 1, " upon")


async def test_a_what_if_session_asks_for_the_text_after_the_prefix(pipe: AsyncPipe) -> None:
    """In step: a token may begin where the grant is, which counts from the first byte of the prefix."""
    opening = opened(MODEL, 64, prefix="The sky", sampling=Sampling(64, 0.5, 7))
    backend = Scripted({"The sky": [" is", " red", Ending("stop")]}, pauses=True)
    async with served(pipe, backend, opening) as member:
        await until_written(member, Claim)
        await commit(member, 0, grant=6)
        await until_read(pipe)
        assert backend.asked == []
        await commit(member, 1, grant=7)
        assert [token.text for token in await until_written(member, Token)] == [" is"]
        (request,) = backend.asked
        assert (request.prefix, request.temperature, request.max_tokens) == ((Written("The sky"),), 0.5, 64)
        await commit(member, 2, 1, grant=99)
        (finished,) = await until_written(member, Finished)
        assert (finished.branch, finished.tokens, finished.reason) == (0, 2, "stop")


async def test_a_model_that_ends_at_once_after_a_prefix_has_answered(pipe: AsyncPipe) -> None:
    opening = msgspec.structs.replace(opening_of(MODEL), prefix="The sky is blue.", sync="free")
    async with served(pipe, Scripted({opening.prefix: [Ending("stop")]}, pauses=False), opening) as member:
        (finished,) = await until_written(member, Finished)
        assert (finished.tokens, finished.reason) == (0, "stop")


async def test_an_ngram_model_continues_as_if_it_had_never_stopped(pipe: AsyncPipe) -> None:
    """It is given its own text: the greedy rest is the same."""
    alone = NgramBackend(NGRAM, float("inf"))
    await alone.start()
    request = Request("What is a list?", "", 40, 0.0, 7, 20, 1_000)
    whole = [item.pieces[0] async for item in alone.generate(request) if isinstance(item, Chunk)]
    texts = [piece.text for piece in whole]
    async with served(pipe, NgramBackend(NGRAM, float("inf")), consensus(NGRAM, max_tokens=40)) as member:
        await until_written(member, Claim)
        await commit(member, 0, grant=4_000)
        await until_written(member, Token, len(texts))
        start = len("".join(texts[:6]).lstrip().encode())
        given = "".join(texts[6:9])
        await commit(member, 1, 0, Steer(start, start + len(given.encode()), given), 1, grant=4_000)
        finished = (await until_written(member, Finished, 2))[-1]
        tokens = [token for token in await member.entries(Token) if token.branch == 1]
        assert finished.tokens == len(tokens)
        rest = texts[9 : 9 + len(tokens)]
        assert [token.text for token in tokens][: len(rest)] == rest
        assert len(rest) > 20


async def test_a_draft_that_has_ended_and_whose_producer_has_died_fails(pipe: AsyncPipe) -> None:
    """It could not be steered again."""
    opening = consensus()
    await open_session(pipe, opening)
    claim = (await pipe.one(*write_entry(opening.session, Claim(0, 1)))).decode()
    for entry in (Token(0, claim, 0, "answer", "No", 1, 1), Finished(0, claim, 1, 1)):
        await pipe.one(*write_entry(opening.session, entry))
    progress = encode_progress((Progress(claim, 1, True),))
    await pipe.one("HSET", keys.state(opening.session), "window", 1, "progress", progress)
    async with served(pipe, Scripted({"": []}, pauses=False), opening, opens=False) as member:
        (failed,) = await until_written(member, Failed)
        assert failed.reason == DIED_AFTER_IT_BEGAN
