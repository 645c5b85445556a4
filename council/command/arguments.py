"""What the command line says, taken apart: lists of models, weights, a member's own options, and the chat to answer."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import msgspec

from schemas.errors import Refused
from schemas.rules.chat import Chat, chat_of
from schemas.rules.members import split_members
from schemas.sessions import MAX_PROMPT_BYTES, MEMBER_OPTIONS

# A chat's text is bounded by admission; its JSON may escape each character.
_MOST_FILE_BYTES = 8 * MAX_PROMPT_BYTES


def members(joined: str | None) -> list[str] | None:
    """The members of --models, one text each. Raises Refused."""
    if joined is None:
        return None
    members = split_members(joined)
    if not all(members):
        raise Refused("bad_models", "--models names an empty model: write names separated by single commas.")
    return members


def named_weights(joined: str | None) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in (joined or "").split(",") if joined else []:
        name, separator, number = part.strip().rpartition("=")
        try:
            if not (separator and name) or name in weights:
                raise ValueError
            weights[name] = float(number)
        except ValueError:
            raise Refused(
                "bad_weight",
                f"--weights has {part.strip()!r}: write each model once, as name=number, separated by commas.",
            ) from None
        if not math.isfinite(weights[name]):
            raise Refused("bad_weight", f"The weight of {name!r} is {number}: give a finite number, 0 or more.")
    return weights


def member_options(given: list[str]) -> dict[str, dict[str, float]]:
    """Each --model-option, NAME:option=number,... by the model's name, which may have colons of its own."""
    options: dict[str, dict[str, float]] = {}
    for words in given:
        model, separator, assignments = words.rpartition(":")
        if not (separator and model):
            raise Refused("bad_option", f"--model-option has {words!r}: write NAME:temperature=0.2.")
        for assignment in assignments.split(","):
            name, _, number = (part.strip() for part in assignment.partition("="))
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if name not in MEMBER_OPTIONS or not math.isfinite(value):
                raise Refused(
                    "bad_option",
                    f"--model-option has {assignment.strip()!r} for {model!r}: write one of "
                    f"{', '.join(MEMBER_OPTIONS)}, = and a number, separated by commas.",
                )
            if name in options.setdefault(model, {}):
                raise Refused("bad_option", f"--model-option gives {model!r} two numbers as {name}: give one.")
            options[model][name] = value
    return options


def chat_to_answer(prompt: str | None, session_file: Path | None, system: str) -> Chat:
    """The chat in the file, if there is one, with the prompt as its next turn. Raises Refused."""
    turns = _read_chat(session_file) if session_file else []
    if session_file and not turns:
        raise Refused("bad_session_file", f"{session_file} holds no messages: give at least one of the user's.")
    if prompt is not None:
        turns.append({"role": "user", "content": _read_prompt(prompt)})
    if not turns:
        raise Refused("no_prompt", "There is no prompt: write one, or name a chat with --session-file.")
    chat = chat_of(turns)
    if system and chat.system:
        raise Refused("two_systems", "--system and the chat's own system message contradict: leave one out.")
    return msgspec.structs.replace(chat, system=system or chat.system)


def _read_chat(path: Path) -> list[object]:
    """The messages in the file: a JSON list of them, or an object with such a list as `messages`."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise Refused("bad_session_file", f"{path} cannot be read: {error.strerror or error}.") from None
    if len(raw) > _MOST_FILE_BYTES:
        raise Refused("bad_session_file", f"{path} has more than {_MOST_FILE_BYTES // 1024} KiB: shorten the chat.")
    try:
        read = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("bad_session_file", f"{path} is no JSON: {error}.") from None
    turns = read.get("messages") if isinstance(read, dict) else read
    if not isinstance(turns, list):
        raise Refused(
            "bad_session_file", f'{path} holds no list of messages, such as [{{"role": "user", "content": "..."}}].'
        )
    return turns


def _read_prompt(prompt: str) -> str:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise Refused("bad_prompt", "The standard input is not UTF-8 text.") from None
