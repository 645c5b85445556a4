"""One answer, token by token: only the stretch that was begun is computed ahead of its reader."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence

from producers.backend import BackendFailed, Chunk, Ending, Piece, Request
from producers.llama.model import LlamaModel
from producers.llama.step import Continuation, Draw, Step, piece_of, step_seed
from producers.llama.stretch import next_length
from producers.servers.thinking import ThinkingSplitter
from schemas.entries import Lane


async def answer_to(request: Request, slot: int, model: LlamaModel, name: str) -> AsyncGenerator[Chunk | Ending, None]:
    """One chunk a token, and an Ending. Raises BackendFailed."""
    prompt = await model.prompt(request.messages)
    tokens = await model.tokens(prompt)
    # A context of n tokens has room for n - 1 and the one that they lead to.
    room = model.context_tokens - len(tokens)
    if room < 1:
        raise BackendFailed(
            f"{name} has a context of {model.context_tokens} tokens, and the prompt has {len(tokens)}: shorten it"
        )
    text = Text(prompt, request.top_k)
    last = min(request.max_tokens, room) - 1
    index = 0
    async with contextlib.aclosing(_steps(model, tokens, slot, request, last + 1)) as steps:
        while index <= last:
            try:
                # Before the first token the session's first-token timeout applies.
                async with asyncio.timeout(request.silence_ms / 1_000 if index else None):
                    step = await anext(steps)
            except TimeoutError:
                raise BackendFailed(
                    f"{name} sent nothing for {request.silence_ms / 1_000:g} s (limits.silence_ms)"
                ) from None
            if step.is_end:
                if rest := text.end():
                    yield Chunk(rest)
                yield Ending("stop")
                return
            special = await model.name_of(step.token) if step.is_special else ""
            yield Chunk(text.pieces(step, special, is_last=index == last))
            index += 1
    yield Ending("length")


async def _steps(
    model: LlamaModel, prompt: Sequence[int], slot: int, request: Request, most: int
) -> AsyncGenerator[Step, None]:
    """The tokens after the prompt, `most` at most, in stretches; the last one may be the end.

    The first token is requested alone, because its prompt is computed without a cache: what is requested again after it
    is computed as before, to the last digit. A draw is never repeated to get another result: the tokens that a stream
    contains would then be drawn too often.
    """
    seed = secrets.randbits(64) if request.seed is None else request.seed
    tokens, length = [*prompt], 1

    def next_draw() -> tuple[Continuation, Draw]:
        index = len(tokens) - len(prompt)
        draw = Draw(request.temperature, step_seed(seed, index), request.top_k)
        return Continuation(tuple(tokens), slot, is_first=index == 0), draw

    while (left := len(prompt) + most - len(tokens)) > 0:
        count = min(length, left)
        step: Step | None = None
        if count > 1:
            behind, draw = next_draw()
            async with contextlib.aclosing(model.stretch(behind, draw, count)) as stretch:
                async for step in stretch:
                    tokens.append(step.token)
                    yield step
                    if step.is_end:
                        return
            streamed = tokens[len(behind.tokens) :]
            if len(streamed) == count:
                length = next_length(length, is_cut=False)
                continue
            step = await model.step_behind(streamed, behind, draw)
        step = step or await model.step(*next_draw())
        tokens.append(step.token)
        yield step
        if step.is_end:
            return
        length = next_length(length, is_cut=step.begins_character)


class Text:
    """The shown text of an answer's tokens. A character, and a tag, belong to the token that completes them."""

    def __init__(self, prompt: str, top_k: int) -> None:
        self._lanes, self._top_k = ThinkingSplitter(prompt), top_k
        # Bytes that are not UTF-8 are shown as U+FFFD; half a character at the end is not shown.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def pieces(self, step: Step, special: str, *, is_last: bool) -> tuple[Piece, ...]:
        """One piece with the measurement; before it another one where the token shows text that is not its own: text of
        the other lane, or of tokens before it where it has no bytes itself."""
        before = self._lanes.lane
        raw = bytes(step.entry.bytes or ()) if step.entry else b""
        shares = self._lanes.feed(self._decoder.decode(raw), special)
        if is_last:
            shares += self._lanes.end()
        # A tag has no text, and belongs to the thinking.
        own: tuple[Lane, str] = ("thinking" if before == "thinking" else self._lanes.lane, "")
        *earlier, (lane, text) = _joined(shares) if raw and shares else [*_joined(shares), own]
        return (*(Piece(share, other) for other, share in earlier), piece_of(text, lane, step, self._top_k))

    def end(self) -> tuple[Piece, ...]:
        """The text that was kept back, when the answer ended by itself."""
        return tuple(Piece(text, lane) for lane, text in self._lanes.end())


def _joined(shares: list[tuple[Lane, str]]) -> list[tuple[Lane, str]]:
    joined: list[tuple[Lane, str]] = []
    for lane, text in shares:
        if joined and joined[-1][0] == lane:
            text = joined.pop()[1] + text
        joined.append((lane, text))
    return joined
