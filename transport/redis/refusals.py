"""What a refusal of Redis means, in words that may be shown.

Redis quotes user names and arguments, which may be secrets or prompts: "User NAME has no permissions …", "unknown
command 'AUTH', with args beginning with: …". So of such errors only the meaning is shown.
"""

from __future__ import annotations

import re
from typing import TypeVar

from redis.exceptions import AuthenticationError, RedisError, ResponseError

E = TypeVar("E", bound=BaseException)

# "this user has no permissions to run the 'get' command" (Redis 6.2, 7.0), "User NAME has no permissions to run the
# 'xinfo|groups' command" (later ones, and Valkey; also inside a script's error).
_RIGHT = re.compile(r"no permissions to run the '([a-z][a-z0-9._|-]*)' command", re.IGNORECASE)
# A script's error in Redis 6.2 and 7.0, which names no command.
_RIGHT_IN_SCRIPT = re.compile(r"can't run this command or subcommand")
_KEYS = re.compile(r"access (?:at least )?(?:one of the keys|a key)")
_ARGUMENTS = re.compile(r",? with args beginning with.*", re.DOTALL)
_MOST_CHARS = 300

# The right to keys, of a council with the default prefix.
KEYS = "~council:*"
_UNKNOWN_RIGHT = "a right that Redis does not name: `council doctor` names it"


def missing_right(error: BaseException | None) -> str | None:
    """The right that the user lacks, as `ACL SETUSER` takes it: +COMMAND, or KEYS. Empty where Redis does not name it;
    None for any other error."""
    if not isinstance(error, ResponseError):
        return None
    text = str(error)
    if found := _RIGHT.search(text):
        return f"+{found[1].lower()}"
    if _KEYS.search(text):
        return KEYS
    is_refusal = _RIGHT_IN_SCRIPT.search(text) or getattr(error, "status_code", None) == "NOPERM"
    return "" if is_refusal else None


def login_problem(error: BaseException | None) -> str | None:
    """What is wrong with the URL's user name or password; None for any other error."""
    # redis-py's asyncio connection wraps it.
    related = (error, error.__cause__, error.__context__) if isinstance(error, RedisError) else ()
    refusal = next((one for one in related if isinstance(one, AuthenticationError)), None)
    if refusal is None:
        return None
    text = str(refusal)
    if "required" in text or getattr(refusal, "status_code", None) == "NOAUTH":
        return "it requires a password, and the URL has none"
    if "without any password configured" in text or "no password is set" in text:
        return "the URL has a password, and this Redis has none"
    return "the user name or the password is wrong, or the user is disabled"


def without_arguments(error: E) -> E:
    """The error, of which the arguments of a command that Redis quotes are removed: a traceback shows its text."""
    if (text := str(error)) != (short := _ARGUMENTS.sub("", text)):
        error.args = (short,)
    return error


def in_words(error: BaseException) -> str:
    """The error in words that contain no user name, no password and no argument of a command."""
    if problem := login_problem(error):
        return problem
    right = missing_right(error)
    if right is None:
        return " ".join(_ARGUMENTS.sub("", str(error)).split())[:_MOST_CHARS] or "no reply in time"
    return f"this user lacks {f'the right {right}' if right else _UNKNOWN_RIGHT}"
