"""Which of a model's words are thinking and which are its answer.

    opening ──"<think>"──▶ thinking ──"</think>"──▶ answer
       └──────────anything else─────────────────────▶

The tags are nobody's text. White space after a tag is dropped, as llama.cpp's server does. What may yet become a tag is
kept until that is known; where the text was cut changes nothing.
"""

from __future__ import annotations

from schemas.entries import Lane

# How models write it: most of them; Mistral's; gpt-oss, whose tags are made of special tokens.
TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)
# What begins an answer: thinking, or with gpt-oss an answer without a thought.
_OPENINGS = {**dict(TAGS), "<|channel|>final<|message|>": ""}
_HIDDEN = "\0"


class ThinkingSplitter:
    """One answer's text, shared out."""

    def __init__(self, prompt: str = "") -> None:
        """`prompt` as the chat template wrote it: some templates begin the thinking themselves."""
        # What the model wrote and is not shared out yet; in `_shown`, special tokens are hidden, letter by letter.
        self._written = self._shown = ""
        self._close = next((close for opening, close in TAGS if prompt.rstrip().endswith(opening)), "")
        self._is_opening = not self._close
        self._is_after_tag = bool(self._close)

    @property
    def lane(self) -> Lane:
        """The lane of a token that has no text of its own."""
        return "thinking" if self._close else "answer"

    def feed(self, text: str, special: str = "") -> list[tuple[Lane, str]]:
        """What is certain now that `text` and the special token of this name follow: in order, no lane twice."""
        visible = text.replace(_HIDDEN, "")
        self._written += visible + special
        self._shown += visible + _HIDDEN * len(special)
        if self._is_opening and not self._has_opened():
            return []
        thought = self._thought() if self._close else ""
        said = "" if self._close else self._cut(self._white_space(), len(self._written))
        shares: list[tuple[Lane, str]] = [("thinking", thought), ("answer", said)]
        return [(lane, share) for lane, share in shares if share]

    def end(self) -> list[tuple[Lane, str]]:
        """What was kept, when no more comes."""
        rest = self._cut(0, len(self._written))
        return [(self.lane, rest)] if rest else []

    def _has_opened(self) -> bool:
        """True once it is known how the answer begins."""
        start = len(self._written) - len(self._written.lstrip())
        begun = self._written[start:]
        for tag, close in _OPENINGS.items():
            if begun.startswith(tag):
                self._cut(start + len(tag), start + len(tag))
                self._close, self._is_after_tag, self._is_opening = close, True, False
        self._is_opening = self._is_opening and any(tag.startswith(begun) for tag in _OPENINGS)
        return not self._is_opening

    def _thought(self) -> str:
        """What belongs to the thinking for certain; behind its closing tag the answer begins."""
        start = self._white_space()
        end = self._written.find(self._close, start)
        if end >= 0:
            thought = self._cut(start, end)
            self._cut(len(self._close), len(self._close))
            self._close, self._is_after_tag = "", True
            return thought
        most = min(len(self._close) - 1, len(self._written) - start)
        kept = next(n for n in range(most, -1, -1) if self._written.endswith(self._close[:n]))
        return self._cut(start, len(self._written) - kept)

    def _white_space(self) -> int:
        """How much of what is written only parts a tag from what follows it."""
        if not self._is_after_tag:
            return 0
        start = len(self._written) - len(self._written.lstrip())
        self._is_after_tag = start == len(self._written)
        return start

    def _cut(self, start: int, end: int) -> str:
        """What is shown from `start` to `end`, and everything up to `end` is dealt with."""
        share = self._shown[start:end].replace(_HIDDEN, "")
        self._written, self._shown = self._written[end:], self._shown[end:]
        return share
