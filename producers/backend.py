"""What a backend is: the code that makes chunks of tokens of one request.

    Request --> Backend.generate() --> Chunk, Chunk, ..., Ending     (or BackendFailed, at any point)

A chunk is what arrived at one moment; it is not a token. It contains one Piece for each logprob entry that came with
it, or one Piece for its text where none came. The shown text is the concatenation of the pieces' texts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from itertools import groupby
from typing import Protocol

import msgspec

from schemas.entries import Lane, Quality
from schemas.models import ModelFacts
from schemas.sessions import Message, Sampling


class Written(msgspec.Struct, frozen=True):
    """A stretch of the answer so far. `ids` are the model's own token ids where it wrote the stretch itself and its
    backend reported them (Piece.token), in order and complete; without ids the text was given to it."""

    text: str
    ids: tuple[int, ...] = ()


class Request(msgspec.Struct, frozen=True):
    """What one member of a session asks its model. `silence_ms` is how long a model that has begun may send nothing.

    `prefix` is the answer so far, which the model continues: its backend yields only what follows. `is_check`:
    `council check` asks it, so no user has asked for any of its options.
    """

    prompt: str
    system: str
    max_tokens: int
    temperature: float
    seed: int | None
    top_k: int
    silence_ms: int
    history: tuple[Message, ...] = ()
    prefix: tuple[Written, ...] = ()
    is_check: bool = False

    @property
    def prefix_text(self) -> str:
        """The answer so far; empty where the model begins it."""
        return "".join(stretch.text for stretch in self.prefix)

    @property
    def continues(self) -> bool:
        """True where the model has an answer to continue; the text of its tokens may be empty yet."""
        return any(stretch.text or stretch.ids for stretch in self.prefix)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole chat: the system text, if there is one, the turns so far, the turn to be answered, and the answer
        so far, if there is one, as one turn of the assistant."""
        begun = self.prefix_text
        return (*self.question, Message("assistant", begun)) if begun else self.question

    @property
    def question(self) -> tuple[Message, ...]:
        """The chat up to the turn to be answered."""
        system = (Message("system", self.system),) if self.system else ()
        return (*system, *self.history, Message("user", self.prompt))

    @property
    def messages_without_system(self) -> tuple[Message, ...]:
        """The chat for a model that knows no system text: the first turn begins with it."""
        if not self.system:
            return self.messages
        first, *rest = self.messages[1:]
        return (Message(first.role, f"{self.system}\n\n{first.content}"), *rest)

    @property
    def has_default_temperature(self) -> bool:
        """True where the temperature is the council's choice, not the user's."""
        return self.is_check or self.temperature == Sampling().temperature

    @property
    def has_default_length(self) -> bool:
        """True where the limit of the answer is the council's choice, not the user's."""
        return self.is_check or self.max_tokens == Sampling().max_tokens


class Piece(msgspec.Struct, frozen=True):
    """One token: its shown text and its measurement. `piece` is its own bytes where they differ from the text, `token`
    its id, where the backend knows it and a request may continue after it (Written.ids)."""

    text: str
    lane: Lane = "answer"
    logprob: float | None = None
    quality: Quality = "missing"
    piece: bytes = b""
    top: tuple[tuple[bytes, float], ...] = ()
    token: int | None = None


def stretches_of(pieces: Iterable[Piece]) -> tuple[Written, ...]:
    """The answer in these pieces, as the prefix of a request that continues it: a stretch for each row of tokens whose
    ids are known, and the text of the others as given text. Thinking is left out."""
    answer = [piece for piece in pieces if piece.lane == "answer" and (piece.text or piece.token is not None)]
    rows = [[*row] for _, row in groupby(answer, lambda piece: piece.token is None)]
    return tuple(
        Written("".join(piece.text for piece in row), tuple(piece.token for piece in row if piece.token is not None))
        for row in rows
    )


class Chunk(msgspec.Struct, frozen=True):
    """The tokens that arrived together, at the moment at which the iterator yields them."""

    pieces: tuple[Piece, ...]


class ModelLoading(msgspec.Struct, frozen=True):
    """A backend's sign: the model server answers, and is still loading the model."""


class ModelWaiting(msgspec.Struct, frozen=True):
    """A backend's sign: the model server answers, and has no free slot for the request yet."""


class ModelReady(msgspec.Struct, frozen=True):
    """A sign: the model is loaded and has a slot for the request."""


# The longest context of a model: a larger number of tokens is an error of its server.
MOST_PROMPT_TOKENS = 10_000_000
# The reasons of an ending: by itself, at the limit of tokens, and by itself with the refusal of an answer.
STOP, LENGTH, REFUSED = "stop", "length", "refused: its text is the refusal"


class Ending(msgspec.Struct, frozen=True):
    """The model has ended by itself: `reason` is STOP, LENGTH, REFUSED, or a word of its server. `odd` is what the
    server sent and the backend did not understand, in words that follow "sent ".

    `logprob` and `top` are the measurement of the end itself, as a piece has one: the logprob of ending here, and the
    likeliest pieces in this place, in which b"" is the end. None and empty where the server does not report it.

    `prompt_tokens` is how many tokens the whole request has, cached ones and an answer so far among them, in 1 to
    MOST_PROMPT_TOKENS; None where the server does not report it.
    """

    reason: str
    odd: tuple[str, ...] = ()
    logprob: float | None = None
    top: tuple[tuple[bytes, float], ...] = ()
    prompt_tokens: int | None = None


class BackendFailed(Exception):
    """The model or its server failed. The message is a sentence for a person, without secrets and prompts.
    `is_refusal`: the server does not accept such a request."""

    is_refusal = False


class ServerAway(BackendFailed):
    """No server listens at the address."""


class OutOfMemory(BackendFailed):
    """The model does not fit into memory; the message contains numbers where they are known. `room_helps`: other models
    of the council are in that memory."""

    room_helps = False


class Resident(msgspec.Struct, frozen=True):
    """A model in a server's memory. `ram_bytes` + `vram_bytes` is its size there."""

    model: str
    ram_bytes: int
    vram_bytes: int


class Residence(Protocol):
    """The memory into which a model is loaded, where the council decides that."""

    async def residents(self) -> tuple[Resident, ...]:
        """All models in that memory now, with the server's names. Raises BackendFailed."""

    async def load(self) -> None:
        """Returns when the model is in memory; at once if it already is. Raises BackendFailed, OutOfMemory."""

    async def unload(self, model: str) -> None:
        """Takes a model of that server out of memory, if it is there. Raises BackendFailed."""


class Backend(Protocol):
    """One model behind one interface."""

    @property
    def pauses(self) -> bool:
        """True where the backend stops generating while its chunks are not taken."""

    @property
    def slots(self) -> int:
        """How many requests it serves at once, at least 1; the server's number is known after start()."""

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model; after start() with what its server reports. `model` is the server's name of it;
        `residency` is not set."""

    @property
    def residence(self) -> Residence | None:
        """None where the model needs no loading, or its server decides when to load it."""

    async def start(self) -> None:
        """Makes it ready to serve; called once. A server that is away is not an error here: `facts.trouble` has the
        reason, and each request tries again."""

    def generate(self, request: Request) -> AsyncIterator[Chunk | ModelLoading | ModelWaiting | Ending]:
        """Yields chunks and, last, one Ending; of an answer that has begun (Request.prefix) only what follows, which
        may be no chunk at all. Raises OutOfMemory, and BackendFailed, also where the model does not continue one.
        Closing the iterator stops the generation."""

    async def close(self) -> None:
        """Releases what start() acquired."""
