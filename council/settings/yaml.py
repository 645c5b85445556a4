"""Settings in YAML: plain values, and the line on which each of them stands.

    text --events--> mappings, sequences, scalars, as JSON has them (the core schema of YAML 1.2)

`yes` and `1:30` are texts. Anchors, aliases, tags, a second document and a key that stands twice are refused where they
begin, so that no file can unfold into more than it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from schemas.errors import Refused

# The deepest setting, tiers.NAME.profile.FIELD, lies at four.
MAX_DEPTH = 8

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    "-.inf": float("-inf"),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
# As in TOML, digits may be grouped by underscores. No setting has more digits than these.
_INTEGER = re.compile(r"[-+]?\d{1,3}(?:_?\d{1,3}){0,9}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.\d{1,30}|\d{1,30}(?:\.\d{0,30})?)(?:[eE][-+]?\d{1,4})?", re.ASCII)


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The values of a YAML text, and the line of each key. `name` is the file's, for sentences. Raises Refused."""
    try:
        return _YamlText(text, name).read()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Refused("bad_settings", f"{name}, line {line}: this is no valid YAML: {error.problem}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Refused(
            "bad_settings", f"{name}, line {line}: the character U+{_code(error.character):04X} may not be in YAML."
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        # The parser lets an escape past U+10FFFF, or a version of five thousand digits, fall through.
        raise Refused("bad_settings", f"{name} is no valid YAML.") from None


def _code(character: object) -> int:
    return character if isinstance(character, int) else ord(str(character)[:1])


class _YamlText:
    """The events of one text, read once from the first to the last."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._lines: dict[tuple[str, ...], int] = {}

    def read(self) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return {}, {}
        first = next(self._events)
        values = self._value(first, ())
        next(self._events)  # the document's end
        if not isinstance(after := next(self._events), yaml.StreamEndEvent):
            raise self._refused(after, "a second document begins here; settings are one")
        if values is None:
            return {}, {}
        if not isinstance(values, dict):
            raise self._refused(first, "settings are written as `name: value`")
        return values, self._lines

    def _value(self, event: yaml.Event, keys: tuple[str, ...]) -> Any:
        """The value that begins with `event`, found under `keys`."""
        self._require_plain(event, keys)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(keys)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(keys)
        assert isinstance(event, yaml.ScalarEvent)
        return self._scalar(event)

    def _require_plain(self, event: yaml.Event, keys: tuple[str, ...]) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._refused(event, "anchors (&) and aliases (*) are not used in settings: write the value out")
        if getattr(event, "tag", None) is not None:
            raise self._refused(event, "tags (!) are not used in settings: write the bare value")
        if len(keys) > MAX_DEPTH:
            raise self._refused(event, "this is nested too deeply; no setting is")

    def _mapping(self, keys: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._require_plain(event, keys)
            if not isinstance(event, yaml.ScalarEvent):
                raise self._refused(event, "a name is a word, not a list or a table")
            name = self._whole(event)
            if name in found:
                raise self._refused(event, f"{'.'.join((*keys, name))} is set twice: keep one of the two")
            self._lines[*keys, name] = _line(event)
            found[name] = self._value(next(self._events), (*keys, name))
        return found

    def _sequence(self, keys: tuple[str, ...]) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._lines[*keys, str(len(found))] = _line(event)
            found.append(self._value(event, (*keys, str(len(found)))))
        return found

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text = self._whole(event)
        if event.style:  # quoted, or a block: a text whatever it looks like
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _whole(self, event: yaml.ScalarEvent) -> str:
        """The scalar's text. Half characters, as JSON escapes them, are put together."""
        try:
            return event.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._refused(event, "half a character stands here") from None

    def _refused(self, event: yaml.Event, problem: str) -> Refused:
        return Refused("bad_settings", f"{self._name}, line {_line(event)}: {problem}.")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
