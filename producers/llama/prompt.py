"""The tokens of a request: its chat as the model's template writes it, and the answer so far.

    chat template        own stretch    given text             own stretch
    tokens, once a BOS   its ids        tokens of its own      its ids, to inside a character where the model was there

The chat is read with special tokens; a given text is text, whatever it contains.
"""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby

import msgspec

from producers.backend import BackendFailed, Request
from producers.llama.model import LlamaModel, TokenPiece
from producers.servers.following import without_white_space
from producers.servers.thinking import thinking_closed

# Text in front of which a tokenizer may put a space, and which joins no text that follows.
_ANCHORS = ("\n", ".", "a")
# New lines are tokens of their own, and a model that sees them continues well.
_SPACES = " \t"


class Prompt(msgspec.Struct, frozen=True):
    """`text` is the chat as the template wrote it, up to the answer. `tokens` contain the answer so far; it ends with
    `white_space` that they lack, and `begun` are bytes of a character that they have begun."""

    text: str
    tokens: tuple[int, ...]
    white_space: str = ""
    begun: bytes = b""
    continues: bool = False


async def prompt_of(request: Request, model: LlamaModel, name: str) -> Prompt:
    """Raises BackendFailed, also for a prompt that leaves no room for an answer."""
    chat = await model.prompt(request.question)
    chat = thinking_closed(chat) if request.continues else chat
    tokens = await model.tokens(chat)
    stretches = [(is_own, [*found]) for is_own, found in groupby(request.prefix, lambda stretch: bool(stretch.ids))]
    white_space, begun = "", b""
    for number, (is_own, found) in enumerate(stretches, 1):
        own, text = [token for stretch in found for token in stretch.ids], "".join(stretch.text for stretch in found)
        if number < len(stretches):
            # A character that own tokens begin here is whole in the text that follows.
            tokens += whole_characters(own, model.parts) if is_own else await tokens_of_text(text, model.pieces)
        elif is_own:
            tokens, begun = tokens + own, begun_character(own, model.parts)
        else:
            text, white_space = without_white_space(text, _SPACES)
            tokens += await tokens_of_text(text, model.pieces)
    room = model.context_tokens - len(tokens)
    if room < 1:
        what = "the prompt with the answer so far" if request.continues else "the prompt"
        raise BackendFailed(
            f"{name} has a context of {model.context_tokens} tokens, and {what} has {len(tokens)}: shorten it"
        )
    return Prompt(chat, tuple(tokens), white_space, begun, request.continues)


def whole_characters(tokens: Sequence[int], parts: Mapping[int, bytes]) -> Sequence[int]:
    """The tokens without the last ones that only begin a character. `parts` are the bytes of tokens that are no text
    by themselves."""
    begun = begun_character(tokens, parts)
    while begun and len(parts[tokens[-1]]) <= len(begun):
        begun, tokens = begun[: -len(parts[tokens[-1]])], tokens[:-1]
    return tokens


def begun_character(tokens: Sequence[int], parts: Mapping[int, bytes]) -> bytes:
    """The bytes of the last character, where these tokens end inside it."""
    raw = b""
    for token in reversed(tokens):
        if token not in parts:
            break
        raw = parts[token] + raw
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(raw)
    return decoder.getstate()[0]


async def tokens_of_text(text: str, pieces_of: Callable[[str], Awaitable[Sequence[TokenPiece]]]) -> list[int]:
    """The tokens of a text that follows other tokens. Some tokenizers put a space before each text: where this one
    does, the text's own first space is left to it, or the text is read behind other text."""
    if not text:
        return []
    pieces = await pieces_of(text)
    if _joined(pieces) == f" {text}".encode():
        if text.startswith(" ") and text != " ":
            pieces = await pieces_of(text[1:])
        else:
            for anchor in _ANCHORS:
                longer = await pieces_of(anchor + text)
                if (start := _length_of(anchor, longer)) is not None:
                    return [piece.id for piece in longer[start:]]
    return [piece.id for piece in pieces]


def _length_of(anchor: str, pieces: Sequence[TokenPiece]) -> int | None:
    """How many of the pieces make up the anchor; None where a piece contains its end and more."""
    for length in range(1, len(pieces)):
        if _joined(pieces[:length]) in (anchor.encode(), f" {anchor}".encode()):
            return length
    return None


def _joined(pieces: Sequence[TokenPiece]) -> bytes:
    return b"".join(piece.raw for piece in pieces)
