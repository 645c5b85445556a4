"""Parsing arguments of the command line: lists of models, weights, options of a member, and the chat to answer."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import msgspec

from schemas.errors import Refused
from schemas.rules.chat import Chat, chat_of
from schemas.rules.members import split_members
from schemas.sessions import MAX_PROMPT_BYTES, MEMBER_OPTIONS

# Admission limits the chat's text; its JSON may escape each character.
_MOST_FILE_BYTES = 8 * MAX_PROMPT_BYTES


def members(joined: str | None) -> list[str] | None:
    """The members of --models, one text each. Raises Refused."""
    if joined is None:
        return None
    members = split_members(joined)
    if not all(members):
        raise Refused("bad_models", "--models contains an empty name: write names separated by single commas.")
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
                f"--weights contains {part.strip()!r}: write each model once, as NAME=NUMBER, separated by commas.",
            ) from None
        if not math.isfinite(weights[name]):
            raise Refused("bad_weight", f"The weight of {name!r} is {number}: give a finite number, 0 or more.")
    return weights


def member_options(given: list[str]) -> dict[str, dict[str, float]]:
    """The options by the model's name, which may contain colons; each --model-option is NAME:OPTION=NUMBER,... Raises
    Refused."""
    options: dict[str, dict[str, float]] = {}
    for written in given:
        model, separator, assignments = written.rpartition(":")
        if not (separator and model):
            raise Refused("bad_option", f"--model-option is {written!r}: write NAME:temperature=0.2.")
        for assignment in assignments.split(","):
            name, _, number = (part.strip() for part in assignment.partition("="))
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if name not in MEMBER_OPTIONS or not math.isfinite(value):
                raise Refused(
                    "bad_option",
                    f"--model-option contains {assignment.strip()!r} for {model!r}: write OPTION=NUMBER, separated by "
                    f"commas; options: {', '.join(MEMBER_OPTIONS)}.",
                )
            if name in options.setdefault(model, {}):
                raise Refused("bad_option", f"--model-option sets {name} of {model!r} twice: set it once.")
            options[model][name] = value
    return options


def chat_to_answer(prompt: str | None, session_file: Path | None, system: str) -> Chat:
    """The chat in the file, if one is given, with the prompt as its next turn. Raises Refused."""
    turns = _read_chat(session_file) if session_file else []
    if session_file and not turns:
        raise Refused("bad_session_file", f"{session_file} contains no messages: write at least one of the user.")
    if prompt is not None:
        turns.append({"role": "user", "content": _read_prompt(prompt)})
    if not turns:
        raise Refused("no_prompt", "There is no prompt: write one, or give a chat with --session-file.")
    chat = chat_of(turns)
    if system and chat.system:
        raise Refused("two_systems", "Both --system and the chat contain a system text: leave one out.")
    return msgspec.structs.replace(chat, system=system or chat.system)


def _read_chat(path: Path) -> list[object]:
    """The messages in the file: a JSON list of them, or an object with such a list as `messages`."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise Refused("bad_session_file", f"{path} cannot be read: {error.strerror or error}.") from None
    if len(raw) > _MOST_FILE_BYTES:
        raise Refused("bad_session_file", f"{path} is larger than {_MOST_FILE_BYTES // 1024} KiB: shorten the chat.")
    try:
        read = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("bad_session_file", f"{path} is not valid JSON: {error}.") from None
    turns = read.get("messages") if isinstance(read, dict) else read
    if not isinstance(turns, list):
        raise Refused(
            "bad_session_file",
            f'{path} does not contain a list of messages: write [{{"role": "user", "content": "..."}}].',
        )
    return turns


def _read_prompt(prompt: str) -> str:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise Refused("bad_prompt", "Standard input is not UTF-8 text: convert it.") from None
