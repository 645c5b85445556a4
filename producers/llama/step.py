"""One token: what llama.cpp is asked for it, and what it answers.

Each token is a completion of its own, one token long, of the prompt and all tokens before it. They are in the slot's
cache, so that it costs one decode, and nothing is computed before the next is asked for.

A token that begins a character of several tokens comes back without its bytes and its logprob, because llama.cpp's
server waits for the rest of the character. It is measured by a second question (`question_again`): the same place, and
another token forced, whose list of the most probable ones has the first among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from producers.backend import Piece
from producers.chat_stream import ServerFault
from producers.pieces import LogprobEntry, measured_pieces
from schemas.entries import Lane

_FIELDS = ("tokens", "stop_type", "completion_probabilities")
# More than any difference between two logits.
_FORCE = 10_000.0
# llama.cpp takes 2^32 - 1 for "any seed".
_SEEDS = (1 << 32) - 1


class Step(msgspec.Struct, frozen=True):
    """A sampled token. `is_end` where it ends the answer; `entry` is missing where it began a character."""

    token: int
    is_end: bool
    entry: LogprobEntry | None

    @property
    def is_special(self) -> bool:
        """It is no text."""
        return self.entry is not None and not self.entry.bytes


class Place(msgspec.Struct, frozen=True):
    """Where a token is asked for: behind `tokens`, in this slot; `is_first` of its answer, it reuses no cache, so that
    an answer never depends on those before it."""

    tokens: Sequence[int]
    slot: int
    is_first: bool


class _Answer(msgspec.Struct):
    tokens: list[int]
    stop_type: str = ""
    completion_probabilities: list[LogprobEntry] | None = None


_decoder = msgspec.json.Decoder(_Answer)


def question(place: Place, *, temperature: float, seed: int, top_k: int) -> dict[str, object]:
    """What /completion is asked for one token."""
    return _question(place, max(top_k, 1)) | {"temperature": temperature, "seed": seed}


def question_again(place: Place, width: int, forced: int) -> dict[str, object]:
    """What it is asked for the `width` most probable tokens; `forced` must be a whole character."""
    cached = msgspec.structs.replace(place, is_first=False)
    return _question(cached, width) | {"temperature": 0.0, "logit_bias": [[forced, _FORCE]]}


def _question(place: Place, width: int) -> dict[str, object]:
    return {
        "prompt": place.tokens,
        "n_predict": 1,
        "n_probs": width,
        "id_slot": place.slot,
        "cache_prompt": not place.is_first,
        "return_tokens": True,
        "response_fields": _FIELDS,
    }


def step_in(body: bytes) -> Step:
    """The answer to question(). Raises ServerFault."""
    answer = _decoded(body)
    entries = answer.completion_probabilities
    return Step(answer.tokens[0], answer.stop_type == "eos", entries[0] if entries else None)


def entry_of(token: int, body: bytes, top_k: int) -> LogprobEntry | None:
    """The token's own entry in the answer to question_again(); None where it is not in its list. Raises ServerFault."""
    entries = _decoded(body).completion_probabilities
    listed = (entries[0].top_logprobs or []) if entries else []
    own = next((alternative for alternative in listed if alternative.id == token), None)
    if own is None:
        return None
    return LogprobEntry(own.token, own.bytes, own.logprob, own.id, listed[: max(top_k, 1)])


def piece_of(text: str, lane: Lane, step: Step, top_k: int) -> Piece:
    """The token's piece, with `text` as what it shows."""
    if step.entry is None:
        return Piece(text, lane)
    (piece,) = measured_pieces(text, lane, (step.entry,), 1)
    return piece if top_k else msgspec.structs.replace(piece, top=())


def step_seed(seed: int, index: int) -> int:
    """The seed of the token at `index`: in no relation to its neighbours', and the same each time."""
    digest = hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _SEEDS


def _decoded(body: bytes) -> _Answer:
    try:
        answer = _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise ServerFault(f"sent an answer that is no completion: {error}") from error
    if not answer.tokens:
        raise ServerFault("sent an answer without a token")
    return answer
