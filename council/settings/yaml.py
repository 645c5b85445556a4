"""Settings in YAML 1.2: plain values as in JSON, and the line of each key.

Anchors, aliases and tags are refused: settings do not need them, and aliases can unfold into more than memory holds.
"""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.tokens import AliasToken, AnchorToken, TagToken, Token

from schemas.errors import Refused

# The deepest setting, tiers.NAME.profile.FIELD, has four keys.
MAX_DEPTH = 8
_NOT_USED: dict[type[Token], str] = {AnchorToken: "anchors (&)", AliasToken: "aliases (*)", TagToken: "tags (!)"}


class _WrongYaml(Exception):
    def __init__(self, place: Node | Token, problem: str) -> None:
        super().__init__(problem)
        self.line = place.start_mark.line + 1


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """(the values of a YAML text, the line of each key). `name` is the file's, for sentences. Raises Refused."""
    try:
        return _parsed(text)
    except _WrongYaml as error:
        raise Refused("bad_settings", f"{name}, line {error.line}: {error}.") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = "it is nested too deeply" if isinstance(error, MaxDepthExceededError) else error.problem
        raise Refused("bad_settings", f"{name}, line {line}: this is not valid YAML: {problem}.") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Refused("bad_settings", f"{name}, line {line}: YAML allows no U+{error.character:04X}.") from None
    except (ValueError, OverflowError):
        # The parser passes on errors of an escape above U+10FFFF, and of a version of five thousand digits.
        raise Refused("bad_settings", f"{name} is not valid YAML.") from None


def _parsed(text: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    for token in YAML(typ="safe", pure=True).scan(text):
        if kind := _NOT_USED.get(type(token)):
            raise _WrongYaml(token, f"{kind} are not used in settings: write the value out")
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_DEPTH
    lines: dict[tuple[str, ...], int] = {}
    root = yaml.compose(text)
    values = None if root is None else _value(root, (), yaml, lines)
    if values is not None and not isinstance(values, dict):
        raise _WrongYaml(root, "settings are written as `name: value`")
    return values or {}, lines


def _value(node: Node, keys: tuple[str, ...], yaml: YAML, lines: dict[tuple[str, ...], int]) -> Any:
    """The node's value; `keys` lead to it. Notes the lines of the keys below it."""
    if isinstance(node, MappingNode):
        table: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key.value, str):
                raise _WrongYaml(key, "a name is a text, not a list or a table")
            own = (*keys, key.value)
            if key.value in table:
                raise _WrongYaml(key, f"{'.'.join(own)} is set twice: keep one of the two")
            lines[own] = key.start_mark.line + 1
            table[key.value] = _value(value, own, yaml, lines)
        return table
    if isinstance(node, SequenceNode):
        lines |= {(*keys, str(index)): inner.start_mark.line + 1 for index, inner in enumerate(node.value)}
        return [_value(inner, (*keys, str(index)), yaml, lines) for index, inner in enumerate(node.value)]
    try:
        value = yaml.constructor.construct_object(node)
        # JSON writes a character beyond U+FFFF as two escapes.
        return value.encode("utf-16", "surrogatepass").decode("utf-16") if isinstance(value, str) else value
    except (ValueError, OverflowError):
        raise _WrongYaml(node, "this value is not valid") from None
