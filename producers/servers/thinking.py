"""Which of a model's words are thinking and which are its answer. Pure.

    opening ──"<think>"──▶ thinking ──"</think>"──▶ answer
       └──────────anything else─────────────────────▶

The tags belong to neither. White space after a tag is dropped, as llama.cpp's server does. What may become a tag is
kept back until that is known; where the text was cut changes nothing. A tag counts at the beginning of the answer only,
and a closing tag not in quotes: other tags are words about tags.
"""

from __future__ import annotations

import re

from schemas.entries import Lane

# Each family's tags, without regard to case; with special tokens: Mistral's, gpt-oss's, Cohere's, Gemma's, Apertus's.
TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reason>", "</reason>"),
    ("<reasoning>", "</reasoning>"),
    ("<mm:think>", "</mm:think>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think|>", "<|/think|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|start|>assistant<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)
_CLOSINGS = tuple(dict.fromkeys(close for _, close in TAGS))
# The possible beginnings: thinking, or an answer of gpt-oss without thinking.
_OPENINGS = {**dict(TAGS), "<|channel|>final<|message|>": ""}
# With an unknown prompt also the end of a thinking that was sent otherwise, or was empty.
_ENDS = dict.fromkeys(_CLOSINGS, "")
_LONGEST = max(map(len, _OPENINGS | _ENDS))
_LOWER = {letter: letter + 32 for letter in range(ord("A"), ord("Z") + 1)}
_QUOTES = "`'\""
_HIDDEN = "\0"
# gpt-oss: its template leaves the channel to the model; these words begin the answer.
_CHANNEL_OPEN, _CHANNEL_OF_ANSWER = "<|start|>assistant", "<|channel|>final<|message|>"
# Models whose template opens the thinking, by their names: a server without a parser for it sends only its end.
_OPENED_BY_TEMPLATE = re.compile(r"(?<![a-z0-9])(r1|qwq|thinking-2507)(?![a-z0-9])", re.IGNORECASE)
# The last part of a chat template, which begins the model's turn.
_GENERATION = "add_generation_prompt"
_TEMPLATE_END_CHARS = 400


class ThinkingSplitter:
    """Divides one answer's text into the two lanes."""

    def __init__(self, prompt: str | None = None, *, begins_thinking: bool = False) -> None:
        """`prompt` as the chat template wrote it, where that is known: some templates begin the thinking themselves.
        `begins_thinking`: the template is supposed to do so."""
        # What the model wrote and is not divided yet; in `_shown`, each letter of a special token is hidden.
        self._written = self._shown = ""
        self._close = _opened_by(prompt or "")
        self._openings = _lowered(_OPENINGS if prompt is not None else _OPENINGS | _ENDS)
        self._is_opening = begins_thinking or not self._close
        self._is_after_tag = bool(self._close)
        # The lane of a text without tags.
        self._untagged_close = TAGS[0][1] if begins_thinking else ""
        self._last = ""

    @property
    def lane(self) -> Lane:
        """The lane of a token that has no text of its own."""
        return "thinking" if self._close or (self._is_opening and self._untagged_close) else "answer"

    @property
    def is_supposed(self) -> bool:
        """True while nothing but the supposition makes the text thinking."""
        return bool(self._untagged_close)

    @property
    def is_passing(self) -> bool:
        """True where all further text is certainly the answer, as it is."""
        return not (self._is_opening or self._close or self._is_after_tag or self._written)

    def take_apart(self) -> None:
        """The server sends the thinking by itself: the rest is the answer, and tags in it are words; only the end of
        the thinking may be left at its beginning."""
        if self._is_opening:
            self._untagged_close = ""
            self._openings = _lowered(_ENDS)

    def begin_answer(self) -> None:
        """The text continues an answer: all of it belongs to that."""
        self._close, self._untagged_close = "", ""
        self._is_opening = self._is_after_tag = False

    def feed(self, text: str, special: str = "") -> list[tuple[Lane, str]]:
        """The shares that are certain after `text` and the special token of this name: in order, no lane twice."""
        visible = text.replace(_HIDDEN, "")
        self._written += visible + special
        self._shown += visible + _HIDDEN * len(special)
        if self._is_opening and not self._has_opened():
            return []
        thought = self._thought() if self._close else ""
        answer = "" if self._close else self._cut(self._white_space(), len(self._written))
        shares: list[tuple[Lane, str]] = [("thinking", thought), ("answer", answer)]
        return [(lane, share) for lane, share in shares if share]

    def end(self) -> list[tuple[Lane, str]]:
        """The share that was kept back, at the end of the text."""
        rest = self._cut(self._white_space(), len(self._written))
        return [(self.lane, rest)] if rest else []

    def _has_opened(self) -> bool:
        """True once it is known how the text begins."""
        start = len(self._written) - len(self._written.lstrip())
        begun = self._written[start : start + _LONGEST].translate(_LOWER)
        for tag, close in self._openings.items():
            if begun.startswith(tag):
                self._cut(start + len(tag), start + len(tag))
                self._close, self._is_after_tag, self._is_opening = close, True, False
                self._untagged_close = ""
                return True
        if any(tag.startswith(begun) for tag in self._openings):
            return False
        self._close, self._is_opening = self._untagged_close, False
        return True

    def _thought(self) -> str:
        """What is certainly thinking; after its closing tag the answer begins."""
        start = self._white_space()
        closing = re.compile(re.escape(self._close), re.IGNORECASE | re.ASCII)
        at = start
        while found := closing.search(self._written, at):
            before = self._written[found.start() - 1 : found.start()] or self._last
            after = self._written[found.end() : found.end() + 1]
            if before in _QUOTES and before and not after:
                return self._cut(start, found.start())
            if not before or before not in _QUOTES or before != after:
                thought = self._cut(start, found.start())
                length = found.end() - found.start()
                self._cut(length, length)
                self._close, self._untagged_close, self._is_after_tag = "", "", True
                return thought
            at = found.end()
        most = min(len(self._close) - 1, len(self._written) - start)
        end, close = self._written[-most:].translate(_LOWER) if most > 0 else "", self._close.translate(_LOWER)
        kept = next(n for n in range(max(most, 0), -1, -1) if end.endswith(close[:n]))
        return self._cut(start, len(self._written) - kept)

    def _white_space(self) -> int:
        """How much white space follows a tag."""
        if not self._is_after_tag:
            return 0
        start = len(self._written) - len(self._written.lstrip())
        self._is_after_tag = start == len(self._written)
        return start

    def _cut(self, start: int, end: int) -> str:
        """What is shown from `start` to `end`; everything up to `end` is done."""
        share = self._shown[start:end].replace(_HIDDEN, "")
        self._last = self._written[end - 1 : end] or self._last
        self._written, self._shown = self._written[end:], self._shown[end:]
        return share


def _opened_by(prompt: str) -> str:
    """The tag that closes the thinking which the prompt begins; empty where it begins none."""
    ended = prompt.rstrip()
    return next((close for opening, close in TAGS if ended.endswith(opening)), "")


def thinking_closed(prompt: str) -> str:
    """The prompt, as the chat template wrote it, to the beginning of the answer: a thinking that it begins is left
    empty."""
    if prompt.endswith(_CHANNEL_OPEN):
        return prompt + _CHANNEL_OF_ANSWER
    close = _opened_by(prompt)
    if not close:
        return prompt
    # Special tokens stand without white space; the tags of all others have their lines.
    return prompt + close if close.startswith("<|") else f"{prompt.rstrip()}\n\n{close}\n\n"


def template_thinks(template: str) -> bool:
    """True where the end of a chat template opens a block of thinking and never closes one: then the model writes only
    the closing tag. A template that may also close it leaves the thinking to the request."""
    end = (template.rpartition(_GENERATION)[2] or template)[-_TEMPLATE_END_CHARS:]
    return any(opening in end and close not in end for opening, close in TAGS)


def name_thinks(name: str) -> bool:
    """True for the name of a model whose chat template is known to open the thinking."""
    return bool(_OPENED_BY_TEMPLATE.search(name))


def _lowered(openings: dict[str, str]) -> dict[str, str]:
    return {tag.translate(_LOWER): close for tag, close in openings.items()}
