"""One answer, token by token: only the stretch that was begun is computed ahead of its reader."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import secrets
from collections.abc import AsyncGenerator

import msgspec

from producers.backend import LENGTH, STOP, BackendFailed, Chunk, Ending, Piece, Request
from producers.llama.model import LlamaModel
from producers.llama.step import Continuation, Draw, Step, piece_of, step_seed
from producers.llama.stretch import next_length
from producers.servers.following import Following
from producers.servers.thinking import ThinkingSplitter
from producers.servers.token_prompt import Prompt
from schemas.entries import Lane


async def answer_to(
    request: Request, prompt: Prompt, slot: int, held: list[int], model: LlamaModel, name: str
) -> AsyncGenerator[Chunk | Ending, None]:
    """One chunk a token, and an Ending. `held` becomes the tokens in the slot's cache. Raises BackendFailed."""
    # A context of n tokens has room for n - 1 and the one that they lead to.
    room = model.context_tokens - len(prompt.tokens)
    if room < 1:
        what = "the prompt with the answer so far" if prompt.continues else "the prompt"
        raise BackendFailed(
            f"{name} has a context of {model.context_tokens} tokens, and {what} has {len(prompt.tokens)}: shorten it"
        )
    text = Text(prompt.text, request.top_k, prompt.begun if prompt.continues else None)
    following = Following(prompt.white_space)
    last = min(request.max_tokens, room) - 1
    index = 0
    async with contextlib.aclosing(_steps(model, prompt, slot, held, request, last + 1)) as steps:
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
                end = piece_of("", "answer", step, request.top_k)
                yield Ending(STOP, logprob=end.logprob, top=end.top, prompt_tokens=len(prompt.tokens))
                return
            model.note(step)
            special = await model.name_of(step.token) if step.is_special else ""
            yield Chunk(following.feed(text.pieces(step, special, is_last=index == last)))
            index += 1
    yield Ending(LENGTH, prompt_tokens=len(prompt.tokens))


async def _steps(
    model: LlamaModel, prompt: Prompt, slot: int, tokens: list[int], request: Request, most: int
) -> AsyncGenerator[Step, None]:
    """The tokens after the prompt, `most` at most, in stretches; the last one may be the end. `tokens` becomes the
    prompt and what was written after it.

    The first token is requested alone, because its prompt is computed without a cache: what is requested again after it
    is computed as before, to the last digit. A draw is never repeated to get another result: the tokens that a stream
    contains would then be drawn too often. An answer that is continued has its prompt in a cache, mostly.
    """
    seed = secrets.randbits(64) if request.seed is None else request.seed
    tokens[:], start, length = prompt.tokens, len(prompt.tokens), 1

    def next_draw() -> tuple[Continuation, Draw]:
        index = len(tokens) - start
        draw = Draw(request.temperature, step_seed(seed, index), request.top_k)
        return Continuation(tuple(tokens), slot, is_first=index == 0 and not prompt.continues), draw

    while (left := start + most - len(tokens)) > 0:
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

    def __init__(self, prompt: str, top_k: int, begun: bytes | None = None) -> None:
        """`begun`, where the text continues an answer: the bytes of a character that this answer ends inside."""
        self._lanes, self._top_k = ThinkingSplitter(prompt), top_k
        # Bytes that are not UTF-8 are shown as U+FFFD; half a character at the end is not shown.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if begun is not None:
            self._lanes.begin_answer()
            self._decoder.decode(begun)

    def pieces(self, step: Step, special: str, *, is_last: bool) -> tuple[Piece, ...]:
        """One piece with the measurement; before it another one where the token shows text that is not its own: text of
        the other lane, or of tokens before it where it has no bytes itself."""
        before, was_answer = self._lanes.lane, self._lanes.is_passing
        raw = bytes(step.entry.bytes or ()) if step.entry else b""
        written = self._decoder.decode(raw)
        shares = self._lanes.feed(written, special)
        if is_last:
            shares += self._lanes.end()
        # A tag has no text, and belongs to the thinking.
        own: tuple[Lane, str] = ("thinking" if before == "thinking" else self._lanes.lane, "")
        *earlier, (lane, text) = _joined(shares) if raw and shares else [*_joined(shares), own]
        piece = piece_of(text, lane, step, self._top_k)
        if not was_answer and (special or earlier or text != written):
            # Its own text is a tag, or is shown with another token: it cannot be continued by its id.
            piece = msgspec.structs.replace(piece, token=None)
        return (*(Piece(share, other) for other, share in earlier), piece)

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
