"""A chat as people hand it over, a list of messages, and as a session keeps it: system text, earlier turns, the turn to
be answered."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.errors import Refused
from schemas.sessions import Message


class Chat(msgspec.Struct, frozen=True):
    """`prompt` is the user's last turn; the turns before it are `history`."""

    prompt: str
    system: str = ""
    history: tuple[Message, ...] = ()


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    """A message as model servers take it, less what a council has no use for."""

    role: str
    content: str


def chat_of(messages: Sequence[object]) -> Chat:
    """The chat. A leading system message is the system text; the last turn must be the user's. Raises Refused."""
    turns = [_turn(number, message) for number, message in enumerate(messages, 1)]
    if not turns:
        raise Refused("no_messages", "There are no messages: give at least one of the user's.")
    system = turns.pop(0).content if turns[0].role == "system" else ""
    for number, turn in enumerate(turns, 2 if len(turns) < len(messages) else 1):
        if turn.role == "system":
            raise Refused("bad_messages", f"Message {number} is the system's: only the first may be.")
    if not turns or turns[-1].role != "user":
        raise Refused("bad_messages", "The last message must be the user's: it is what the council answers.")
    return Chat(turns[-1].content, system, tuple(turns[:-1]))


def _turn(number: int, message: object) -> Message:
    try:
        turn = msgspec.convert(message, _Turn)
    except msgspec.ValidationError as error:
        raise Refused("bad_messages", f"Message {number} is none ({error}): give its role and its content.") from None
    match turn.role:
        case "system" | "user" | "assistant":
            return Message(turn.role, turn.content)
        case _:
            raise Refused(
                "bad_messages", f"Message {number} has the role {turn.role[:40]!r}: give system, user or assistant."
            )
