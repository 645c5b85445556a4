"""The tokens of a request to llama.cpp's server: its chat as the model's template writes it, and the answer so far.

    chat template        own stretch    given text             own stretch
    tokens, once a BOS   its ids        tokens of its own      its ids, to inside a character where the model was there

The chat is read with special tokens; a given text is text, whatever it contains.
"""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from typing import Protocol

import msgspec

from producers.backend import Request
from producers.servers.following import without_white_space
from producers.servers.thinking import thinking_closed
from schemas.sessions import Message

# Text in front of which a tokenizer may put a space, and which joins no text that follows.
_ANCHORS = ("\n", ".", "a")
# New lines are tokens of their own, and a model that sees them continues well.
_SPACES = " \t"


class TokenPiece(msgspec.Struct):
    """A token and its text; its bytes where these are not UTF-8."""

    id: int
    piece: str | list[int]

    @property
    def raw(self) -> bytes:
        return self.piece.encode() if isinstance(self.piece, str) else bytes(self.piece)


class _Templated(msgspec.Struct):
    prompt: str


class _Tokenized(msgspec.Struct):
    tokens: list[int]


class _Pieces(msgspec.Struct):
    tokens: list[TokenPiece]


read_prompt = msgspec.json.Decoder(_Templated).decode
read_tokens = msgspec.json.Decoder(_Tokenized).decode
read_pieces = msgspec.json.Decoder(_Pieces).decode


def template_question(messages: Sequence[Message]) -> dict[str, object]:
    """The body for /apply-template, whose answer is read by read_prompt()."""
    return {"messages": [{"role": message.role, "content": message.content} for message in messages]}


def chat_question(chat: str) -> dict[str, object]:
    """The body for /tokenize of a chat as the server itself reads it: with the model's first token, and special tokens
    by name. The answer is read by read_tokens()."""
    return {"content": chat, "add_special": True, "parse_special": True}


def text_question(text: str) -> dict[str, object]:
    """The body for /tokenize of a text outside the chat: without the model's first token, and without special
    tokens. The answer is read by read_pieces()."""
    return {"content": text, "add_special": False, "parse_special": False, "with_pieces": True}


class ModelTokens(Protocol):
    """The tokens of a model of llama.cpp's server. Each method raises what the server's requests raise."""

    @property
    def parts(self) -> Mapping[int, bytes]:
        """The bytes of the model's tokens that are not valid UTF-8 alone, as far as they are known."""

    async def prompt(self, messages: Sequence[Message]) -> str:
        """The chat as the model's own template writes it, with the beginning of the next turn."""

    async def tokens(self, text: str) -> list[int]:
        """The tokens of a chat."""

    async def pieces(self, text: str) -> list[TokenPiece]:
        """The tokens of a text."""


class Prompt(msgspec.Struct, frozen=True):
    """`text` is the chat as the template wrote it, up to the answer. `tokens` contain the answer so far; it ends with
    `white_space` that they lack, and `begun` are bytes of a character that they have begun."""

    text: str
    tokens: tuple[int, ...]
    white_space: str = ""
    begun: bytes = b""
    continues: bool = False


async def prompt_of(request: Request, model: ModelTokens) -> Prompt:
    """The prompt; raises what `model` raises."""
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
    return Prompt(chat, tuple(tokens), white_space, begun, request.continues)


def whole_characters(tokens: Sequence[int], parts: Mapping[int, bytes]) -> Sequence[int]:
    """The tokens without the last ones that only begin a character. `parts` are the bytes of tokens that are not valid
    UTF-8 alone."""
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
