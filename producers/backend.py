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
from schemas.models import ModelFacts
from schemas.sessions import Message


class Request(msgspec.Struct, frozen=True):
    """One member's share of a session. `silence_ms` is how long a model that has begun may say nothing."""

    prompt: str
    system: str
    max_tokens: int
    temperature: float
    seed: int | None
    top_k: int
    silence_ms: int
    history: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole chat: the system text, where there is one, the turns so far, and the turn to be answered."""
        system = (Message("system", self.system),) if self.system else ()
        return (*system, *self.history, Message("user", self.prompt))


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


class ModelLoading(msgspec.Struct, frozen=True):
    """The model server answers, but still loads the model."""


class ModelWaiting(msgspec.Struct, frozen=True):
    """The model server answers, but has no room for the request yet."""


class ModelReady(msgspec.Struct, frozen=True):
    """The model is loaded and has a slot for the request."""


class Ending(msgspec.Struct, frozen=True):
    """The model ended by itself: `reason` is stop or length."""

    reason: str


class BackendFailed(Exception):
    """The model or its server failed; the message is a sentence for a person, with no secret and no prompt in it."""


class OutOfMemory(BackendFailed):
    """The model does not fit into the memory that there is; the message says so with numbers where there are any.
    `room_helps` where other models of the council are in that memory."""

    room_helps = False


class Resident(msgspec.Struct, frozen=True):
    """A model in a server's memory. `ram_bytes` + `vram_bytes` is its size there."""

    model: str
    ram_bytes: int
    vram_bytes: int


class Residence(Protocol):
    """The memory that a model is loaded into, where loading is ours to decide."""

    async def residents(self) -> tuple[Resident, ...]:
        """What is in that memory now, this model or not, under the names that the server knows. Raises
        BackendFailed."""

    async def load(self) -> None:
        """Returns when the model is in memory, at once where it is already. Raises BackendFailed, OutOfMemory."""

    async def unload(self, model: str) -> None:
        """Takes a model of that server out of memory; one that is not there is no error. Raises BackendFailed."""


class Backend(Protocol):
    """One model behind one interface."""

    @property
    def pauses(self) -> bool:
        """True where the backend stops generating while nobody takes its chunks."""

    @property
    def slots(self) -> int:
        """How many requests it serves at once, at least 1; what the server says is known after start()."""

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model; after start() with what its server tells. `model` is the name that the server
        knows; `residency` is left to whoever keeps it."""

    @property
    def residence(self) -> Residence | None:
        """None where the model needs no loading, or its server loads it as it likes."""

    async def start(self) -> None:
        """Makes it ready to serve; called once. A server that is away is no error here, but told in `facts.trouble`:
        each request finds out."""

    def generate(self, request: Request) -> AsyncIterator[Chunk | ModelLoading | ModelWaiting | Ending]:
        """Yields chunks and, last, one Ending. Raises BackendFailed, OutOfMemory. Closing the iterator stops the
        generation."""

    async def close(self) -> None:
        """Frees what start() took."""
