"""Which of a model's words are thinking and which are its answer. Pure.

    opening ──"<think>"──▶ thinking ──"</think>"──▶ answer
       └──────────anything else─────────────────────▶

The tags belong to neither. White space after a tag is dropped, as llama.cpp's server does. What may become a tag is
kept back until that is known; where the text was cut changes nothing.
"""

from __future__ import annotations

from schemas.entries import Lane

# The tags of most models; of Mistral's; of gpt-oss, which are made of special tokens.
TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)
# The possible beginnings: thinking, or with gpt-oss an answer without thinking.
_OPENINGS = {**dict(TAGS), "<|channel|>final<|message|>": ""}
_HIDDEN = "\0"


class ThinkingSplitter:
    """Divides one answer's text into the two lanes."""

    def __init__(self, prompt: str = "") -> None:
        """`prompt` as the chat template wrote it: some templates begin the thinking themselves."""
        # What the model wrote and is not divided yet; in `_shown`, each letter of a special token is hidden.
        self._written = self._shown = ""
        self._close = next((close for opening, close in TAGS if prompt.rstrip().endswith(opening)), "")
        self._is_opening = not self._close
        self._is_after_tag = bool(self._close)

    @property
    def lane(self) -> Lane:
        """The lane of a token that has no text of its own."""
        return "thinking" if self._close else "answer"

    def feed(self, text: str, special: str = "") -> list[tuple[Lane, str]]:
        """The shares that are certain after `text` and the special token of this name: in order, no lane twice."""
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
        """The share that was kept back, at the end of the text."""
        rest = self._cut(0, len(self._written))
        return [(self.lane, rest)] if rest else []

    def _has_opened(self) -> bool:
        """True once it is known how the text begins."""
        start = len(self._written) - len(self._written.lstrip())
        begun = self._written[start:]
        for tag, close in _OPENINGS.items():
            if begun.startswith(tag):
                self._cut(start + len(tag), start + len(tag))
                self._close, self._is_after_tag, self._is_opening = close, True, False
        self._is_opening = self._is_opening and any(tag.startswith(begun) for tag in _OPENINGS)
        return not self._is_opening

    def _thought(self) -> str:
        """What is certainly thinking; after its closing tag the answer begins."""
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
        """How much white space follows a tag."""
        if not self._is_after_tag:
            return 0
        start = len(self._written) - len(self._written.lstrip())
        self._is_after_tag = start == len(self._written)
        return start

    def _cut(self, start: int, end: int) -> str:
        """What is shown from `start` to `end`; everything up to `end` is done."""
        share = self._shown[start:end].replace(_HIDDEN, "")
        self._written, self._shown = self._written[end:], self._shown[end:]
        return share
