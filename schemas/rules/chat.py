"""A chat: the list of messages in a request, and its parts in a session: system text, earlier turns, the turn to be
answered."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.errors import Refused
from schemas.sessions import Message


class Chat(msgspec.Struct, frozen=True):
    """`prompt` is the user's last turn, `history` are the turns before it."""

    prompt: str
    system: str = ""
    history: tuple[Message, ...] = ()


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    """A message as model servers accept it, with the fields that a council uses."""

    role: str
    content: str


def chat_of(messages: Sequence[object]) -> Chat:
    """The chat. A leading system message is the system text; the last turn must be the user's. Raises Refused."""
    turns = [_turn(number, message) for number, message in enumerate(messages, 1)]
    if not turns:
        raise Refused("no_messages", "There are no messages: give at least one with the role user.")
    system = turns.pop(0).content if turns[0].role == "system" else ""
    for number, turn in enumerate(turns, 2 if len(turns) < len(messages) else 1):
        if turn.role == "system":
            raise Refused(
                "bad_messages", f"Message {number} has the role system: only the first message may have it.", status=409
            )
    if not turns or turns[-1].role != "user":
        raise Refused("bad_messages", "The last message must have the role user: the council answers it.", status=409)
    if not turns[-1].content.strip():
        raise Refused(
            "empty_prompt",
            "The prompt is empty: write into the last message what the council is to answer.",
            status=409,
        )
    return Chat(turns[-1].content, system, tuple(turns[:-1]))


def _turn(number: int, message: object) -> Message:
    try:
        turn = msgspec.convert(message, _Turn)
    except msgspec.ValidationError as error:
        raise Refused(
            "bad_messages", f"Message {number} is not valid ({error}): give its role and its content."
        ) from None
    match turn.role:
        case "system" | "user" | "assistant":
            return Message(turn.role, turn.content)
        case _:
            raise Refused(
                "bad_messages", f"Message {number} has the role {turn.role[:40]!r}: give system, user or assistant."
            )
