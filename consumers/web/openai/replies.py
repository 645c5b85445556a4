"""The responses in OpenAI's form. The `council` object is the council's own: other clients ignore it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from consumers.web.openai.composing import FinishReason, NewText
from consumers.web.openai.logprobs import TokenLogprob
from consumers.web.openai.tally import CouncilPart, TokenUsage


class ListedModel(msgspec.Struct, frozen=True):
    """A model id. created is when this server started, in seconds of Unix time."""

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"


class ListedModels(msgspec.Struct, frozen=True):
    """The model ids: the whole council first, then the councils of the settings, then each member."""

    data: Sequence[ListedModel]
    object: Literal["list"] = "list"


class OpenAIError(msgspec.Struct, frozen=True):
    """`message` is one sentence: what is wrong, and what to do. `code` is the council's, and stable; `type` is OpenAI's
    kind of error, and `param` the parameter that it is about, null where there is none."""

    code: str
    message: str
    type: str
    param: str | None


class OpenAIErrorReply(msgspec.Struct, frozen=True):
    """An error in OpenAI's form."""

    error: OpenAIError


class ContentLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a chat's answer. OpenAI's form requires refusal."""

    content: Sequence[TokenLogprob]
    refusal: str | None = None


class TextLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a completion. text_offset counts the characters before each token."""

    tokens: Sequence[str]
    token_logprobs: Sequence[float | None]
    top_logprobs: Sequence[dict[str, float | None]]
    text_offset: Sequence[int]


class ChatMessage(msgspec.Struct, frozen=True):
    """A whole answer; reasoning_content is the thinking, null where there is none."""

    content: str
    reasoning_content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: str | None = None


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What follows of an answer; the first delta of a choice has the role."""

    role: str = ""
    content: str | None = None
    reasoning_content: str | None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ContentLogprobs | None
    finish_reason: FinishReason


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """A part of one answer; finish_reason is null before its last part."""

    index: int
    delta: ChatDelta
    logprobs: ContentLogprobs | None
    finish_reason: FinishReason | None


class TextChoice(msgspec.Struct, frozen=True):
    """One completion, or a part of it; finish_reason is null before its last part."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class WholeReply(msgspec.Struct, frozen=True):
    """What both kinds of whole responses have. `council` is that of the first choice; `councils` has those of several
    choices, else it is null."""

    id: str
    created: int
    model: str
    usage: TokenUsage
    council: CouncilPart
    councils: Sequence[CouncilPart] | None


class ChatCompletion(WholeReply, frozen=True):
    """The answers to a chat."""

    choices: Sequence[ChatChoice]
    object: Literal["chat.completion"] = "chat.completion"


class TextCompletion(WholeReply, frozen=True):
    """The answers to a prompt, or to several."""

    choices: Sequence[TextChoice]
    object: Literal["text_completion"] = "text_completion"


class ReplyChunk(msgspec.Struct, frozen=True):
    """A part of a stream. The last one has no choice, and the usage, if the client requested that."""

    id: str
    created: int
    model: str
    choices: Sequence[ChatChunkChoice | TextChoice]
    council: CouncilPart | None
    object: Literal["chat.completion.chunk", "text_completion"]
    usage: TokenUsage | None = None


class ChoiceReply(msgspec.Struct, frozen=True):
    """One whole choice, of either kind. `echo` is the prompt that the text begins with, or empty."""

    index: int
    text: NewText
    logprobs: Sequence[TokenLogprob] | None
    finish_reason: FinishReason
    usage: TokenUsage
    council: CouncilPart
    echo: str = ""


class OpenAIReply(msgspec.Struct, frozen=True):
    """What all parts of one response have in common."""

    id: str
    created: int
    model: str
    is_chat: bool

    def begin(self, index: int, echo: str, council: CouncilPart) -> bytes:
        """The first event of a choice."""
        if self.is_chat:
            return self._event(ChatChunkChoice(index, ChatDelta("assistant", ""), None, None), council)
        return self._event(TextChoice(index, echo, None, None), council)

    def part(
        self,
        index: int,
        delta: NewText,
        logprobs: Sequence[TokenLogprob] | None,
        offset: int,
        finish: FinishReason | None,
        council: CouncilPart,
    ) -> bytes:
        """The events of a part of a choice; `offset` is how many characters of its text came before. The end has an
        event of its own: clients do not expect text in it."""
        data = b""
        if self.is_chat:
            if delta.content or delta.thinking or logprobs:
                shown = ChatDelta(content=delta.content or None, reasoning_content=delta.thinking or None)
                tokens = ContentLogprobs(logprobs) if logprobs is not None else None
                data = self._event(ChatChunkChoice(index, shown, tokens, None), council)
            return data + (self._event(ChatChunkChoice(index, ChatDelta(), None, finish), council) if finish else b"")
        if delta.content or logprobs:
            text = TextChoice(index, delta.content, text_logprobs(logprobs, offset), None)
            data = self._event(text, council)
        return data + (self._event(TextChoice(index, "", None, finish), council) if finish else b"")

    def usage(self, usage: TokenUsage) -> bytes:
        """The event with the usage."""
        return sent(ReplyChunk(self.id, self.created, self.model, (), None, self._chunk_kind, usage))

    def whole(self, choices: Sequence[ChoiceReply], usage: TokenUsage) -> ChatCompletion | TextCompletion:
        """The response that is not a stream."""
        councils = tuple([one.council for one in choices]) if len(choices) > 1 else None
        common = (self.id, self.created, self.model, usage, choices[0].council, councils)
        if self.is_chat:
            return ChatCompletion(*common, tuple([_chat_choice(one) for one in choices]))
        return TextCompletion(*common, tuple([_text_choice(one) for one in choices]))

    @property
    def _chunk_kind(self) -> Literal["chat.completion.chunk", "text_completion"]:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _event(self, choice: ChatChunkChoice | TextChoice, council: CouncilPart) -> bytes:
        return sent(ReplyChunk(self.id, self.created, self.model, (choice,), council, self._chunk_kind))


def sent(value: msgspec.Struct) -> bytes:
    """A Server-Sent Event with the value as its data."""
    return b"data: %b\n\n" % msgspec.json.encode(value)


def text_logprobs(tokens: Sequence[TokenLogprob] | None, offset: int) -> TextLogprobs | None:
    """The tokens as a completion has them; the first one begins at the character `offset` of the text."""
    if tokens is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return TextLogprobs(
        tuple([token.token for token in tokens]),
        tuple([token.logprob for token in tokens]),
        tuple([{one.token: one.logprob for one in token.top_logprobs} for token in tokens]),
        tuple(offsets),
    )


def _chat_choice(one: ChoiceReply) -> ChatChoice:
    message = ChatMessage(one.text.content, one.text.thinking or None)
    logprobs = None if one.logprobs is None else ContentLogprobs(one.logprobs)
    return ChatChoice(one.index, message, logprobs, one.finish_reason)


def _text_choice(one: ChoiceReply) -> TextChoice:
    logprobs = text_logprobs(one.logprobs, len(one.echo))
    return TextChoice(one.index, one.echo + one.text.content, logprobs, one.finish_reason)
