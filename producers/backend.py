"""What a backend is: something that turns one request into chunks of tokens.

    Request --> Backend.generate() --> Chunk, Chunk, ..., Ending     (or BackendFailed, at any point)

A chunk is what arrived at one moment; it is not a token. It holds one Piece per logprob entry that came with it, or one
Piece for its text where none came. The shown text is the concatenation of the pieces' texts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from schemas.entries import Lane, Quality


class Request(msgspec.Struct, frozen=True):
    """One member's share of a session. `silence_ms` is how long a model that has begun may say nothing."""

    prompt: str
    system: str
    max_tokens: int
    temperature: float
    seed: int | None
    top_k: int
    silence_ms: int


class Piece(msgspec.Struct, frozen=True):
    """One token: its shown text and what was measured. `piece` is its own bytes where they differ from the text."""

    text: str
    lane: Lane = "answer"
    logprob: float | None = None
    quality: Quality = "missing"
    piece: bytes = b""
    top: tuple[tuple[bytes, float], ...] = ()


class Chunk(msgspec.Struct, frozen=True):
    """What arrived together. The time of its arrival is the moment at which the iterator yields it."""

    pieces: tuple[Piece, ...]


class Loading(msgspec.Struct, frozen=True):
    """The model server answers, but still loads the model."""


class Ending(msgspec.Struct, frozen=True):
    """The model ended by itself: `reason` is stop or length."""

    reason: str


class BackendFailed(Exception):
    """The model or its server failed; the message is a sentence for a person, with no secret and no prompt in it."""


class Backend(Protocol):
    """One model behind one interface."""

    @property
    def pauses(self) -> bool:
        """True where the backend stops generating while nobody takes its chunks."""

    @property
    def slots(self) -> int:
        """How many requests it serves at once, at least 1."""

    async def start(self) -> None:
        """Makes it ready to serve; called once. A server that is away is no error here: each request finds out."""

    def generate(self, request: Request) -> AsyncIterator[Chunk | Loading | Ending]:
        """Yields chunks and, last, one Ending. Raises BackendFailed. Closing the iterator stops the generation."""

    async def close(self) -> None:
        """Frees what start() took."""
