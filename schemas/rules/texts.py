"""The checks of the texts of a request: prompt, system text, earlier messages, and the prefix of the answers."""

from __future__ import annotations

from schemas.errors import Refused
from schemas.rules.lanes import leading_space_dropped
from schemas.sessions import MAX_PREFIX_BYTES, MAX_PROMPT_BYTES, MAX_TURNS, SessionRequest


def check_texts(request: SessionRequest) -> None:
    """Raises Refused for a text that is missing, too long or not valid."""
    if not request.prompt.strip():
        raise Refused("empty_prompt", "The prompt is empty: write the text that the council is to answer.")
    turns = [("prompt", request.prompt), ("system text", request.system)]
    turns += [(f"message {number}", turn.content) for number, turn in enumerate(request.history, 1)]
    total = 0
    for name, text in turns:
        size = check_size_of(name, text)
        total += size if name != "system text" else 0
    if total > MAX_PROMPT_BYTES:
        raise _too_long("The messages together have", total)
    if len(request.history) > MAX_TURNS:
        raise Refused("too_many_messages", f"There are {len(request.history) + 1} messages: give at most {MAX_TURNS}.")
    _check_prefix(request)


def check_size_of(name: str, text: str) -> int:
    """The size of the text in bytes. Raises Refused for a text that is too long, or not valid Unicode."""
    size = _size_of(name, text)
    if size > MAX_PROMPT_BYTES:
        raise _too_long(f"The {name} has", size)
    return size


def _size_of(name: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise Refused(
            f"bad_{name.split()[0]}", f"The {name} contains characters that are not valid Unicode: remove them."
        ) from None


def _too_long(what: str, size: int) -> Refused:
    sentence = f"{what} {size} bytes, and the limit is {MAX_PROMPT_BYTES}: shorten it."
    return Refused("prompt_too_long", sentence, status=413)


def _check_prefix(request: SessionRequest) -> None:
    """Raises Refused also for a parent that does not fit the prefix."""
    prefix, parent = request.prefix, request.parent
    size = _size_of("prefix", prefix)
    if size > MAX_PREFIX_BYTES:
        raise Refused(
            "prefix_too_long",
            f"The answers would begin with {size} bytes, and the limit is {MAX_PREFIX_BYTES}: choose an earlier place, "
            "or shorten the text.",
            status=413,
        )
    # Positions in answers count from the first byte that is not white space.
    if leading_space_dropped(prefix.encode()) != prefix.encode():
        raise Refused("bad_prefix", "The prefix begins with white space, and an answer does not: begin with a word.")
    if parent is None:
        return
    for text in (parent.session, parent.word, parent.instead):
        _size_of("parent", text)
    word = parent.word.encode()
    if not (word and 0 <= parent.byte == size - len(word) and prefix.encode().endswith(word)):
        raise Refused("bad_parent", "The prefix does not end with the parent's word at its byte: add it.")
