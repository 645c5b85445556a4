"""One token: llama.cpp's request for it, and the answer. Pure.

A completion of `count` tokens continues the prompt and all tokens before it, which are in the slot's cache. As a stream
(`stretch.py`) it sends each token as it is drawn, except those that begin a character of several tokens: llama.cpp's
server keeps these back, without their ids and logprobs, until the character is whole. Such a token is requested alone:
the same completion, ended with it, gives its id, and a second request its logprob (`question_again`): at the same
position another token is forced, and the list of the likeliest tokens there contains the first one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from producers.backend import Piece
from producers.servers.faults import ServerFault
from producers.servers.pieces import LogprobEntry, measured_pieces
from schemas.entries import Lane

_FIELDS = ("tokens", "tokens_predicted", "stop_type", "completion_probabilities")
# More than any difference between two logits.
_FORCE = 10_000.0
# The likeliest token is drawn, whatever a file's own settings are.
_NO_PENALTIES = {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "dry_multiplier": 0.0}
# llama.cpp takes 2^32 - 1 for "any seed".
_SEEDS = (1 << 32) - 1


class Step(msgspec.Struct, frozen=True):
    """A sampled token. `is_end`: it ends the answer. `entry` is its measurement, where that is known.
    `begins_character`: llama.cpp sent it only when it was requested alone."""

    token: int
    is_end: bool
    entry: LogprobEntry | None
    begins_character: bool = False

    @property
    def is_special(self) -> bool:
        """True where it has no text."""
        return self.entry is not None and not self.entry.bytes


class Continuation(msgspec.Struct, frozen=True):
    """Where tokens are requested: after `tokens`, in this slot. The first request of an answer uses no cache, so that
    an answer never depends on the ones before it, unless the answer continues one."""

    tokens: Sequence[int]
    slot: int
    is_first: bool


class Draw(msgspec.Struct, frozen=True):
    """How tokens are drawn, and how many alternatives of each are listed."""

    temperature: float
    seed: int
    top_k: int


class _Answer(msgspec.Struct):
    tokens: list[int]
    stop_type: str = ""
    completion_probabilities: list[LogprobEntry] | None = None


_decoder = msgspec.json.Decoder(_Answer)


def question(behind: Continuation, draw: Draw, count: int, *, is_streamed: bool) -> dict[str, object]:
    """The body for /completion of `count` tokens."""
    chance = {"temperature": draw.temperature, "seed": draw.seed, "stream": is_streamed}
    penalties = {} if draw.temperature else _NO_PENALTIES
    return _question(behind, max(draw.top_k, 1), count) | chance | penalties


def question_again(behind: Continuation, width: int, forced: int) -> dict[str, object]:
    """The body for the `width` likeliest tokens; `forced` must be a whole character."""
    return _question(cached(behind), width, 1) | {"temperature": 0.0, "logit_bias": [[forced, _FORCE]]}


def cached(behind: Continuation) -> Continuation:
    """The same position, computed before."""
    return msgspec.structs.replace(behind, is_first=False)


def _question(behind: Continuation, width: int, count: int) -> dict[str, object]:
    return {
        "prompt": behind.tokens,
        "n_predict": count,
        "n_probs": width,
        "id_slot": behind.slot,
        "cache_prompt": not behind.is_first,
        "return_tokens": True,
        "response_fields": _FIELDS,
    }


def step_in(body: bytes, before: Sequence[int]) -> Step | None:
    """The last token in the answer to question(); None where the ones before it are not `before`. Raises
    ServerFault."""
    answer = _decoded(body)
    *others, token = answer.tokens
    if others != [*before]:
        return None
    entries = answer.completion_probabilities or []
    return Step(token, answer.stop_type == "eos", entries[-1] if len(entries) == len(answer.tokens) else None)


def entry_of(token: int, body: bytes, top_k: int) -> LogprobEntry | None:
    """The token's own entry in the answer to question_again(); None where it is not in its list. Raises ServerFault."""
    entries = _decoded(body).completion_probabilities
    listed = (entries[0].top_logprobs or []) if entries else []
    own = next((alternative for alternative in listed if alternative.id == token), None)
    if own is None:
        return None
    return LogprobEntry(own.token, own.bytes, own.logprob, own.id, listed[: max(top_k, 1)])


def piece_of(text: str, lane: Lane, step: Step, top_k: int) -> Piece:
    """The token's piece, with this shown text."""
    if step.entry is None:
        return Piece(text, lane, token=step.token)
    (piece,) = measured_pieces(text, lane, (step.entry,), 1)
    return msgspec.structs.replace(piece, token=step.token, top=piece.top if top_k else ())


def step_seed(seed: int, index: int) -> int:
    """The seed of the tokens from `index` on: unrelated to the neighbouring ones, and the same each time."""
    digest = hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _SEEDS


def _decoded(body: bytes) -> _Answer:
    try:
        answer = _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise ServerFault(f"sent an answer that is not a completion: {error}") from error
    if not answer.tokens:
        raise ServerFault("sent an answer without a token")
    return answer
