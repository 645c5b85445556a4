"""A settings file: its values, and the line of each key.

    council.toml --tomllib------> values     lines: found in the text when they are needed
    council.yaml --ruamel.yaml--> values     lines: from the parser

A file that cannot be read is refused in a sentence with its name, and the line where that is known.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import Refused

DEFAULT_FILES = ("council.toml", "council.yaml", "council.yml")
# More than a thousand lines; settings have one hundred.
MAX_BYTES = 64 * 1024


class SettingsFile:
    """What a file sets. Sentences name it by its `path`."""

    def __init__(self, path: Path, text: str, values: dict[str, Any], lines: Mapping[tuple[str, ...], int]) -> None:
        self.path, self.values = path, values
        self._text, self._lines = text, lines

    def line_of(self, keys: Sequence[str]) -> int:
        """The line of the innermost of `keys` that is in the file."""
        if not _is_yaml(self.path):
            return _toml_line(self._text, list(keys))
        written = (tuple(keys[:length]) for length in range(len(keys), 0, -1))
        return next((self._lines[path] for path in written if path in self._lines), 1)


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def read_settings_file(config: Path | None) -> SettingsFile:
    """The file at `config`; else the first of DEFAULT_FILES that exists, or no settings. Raises Refused."""
    for path in [config] if config else map(Path, DEFAULT_FILES):
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise Refused("bad_settings", f"{path} cannot be read: {getattr(error, 'strerror', error)}.") from None
        return _parsed(path, data)
    if config:
        raise Refused("no_settings", f"There is no settings file {config}: correct --config.")
    return SettingsFile(Path(DEFAULT_FILES[0]), "", {}, {})


def _parsed(path: Path, data: bytes) -> SettingsFile:
    if len(data) > MAX_BYTES:
        raise Refused("bad_settings", f"{path} is larger than {MAX_BYTES // 1024} KiB: that is not a settings file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused("bad_settings", f"{path} is not UTF-8 text: save it as UTF-8.") from None
    if _is_yaml(path):
        # Imported here: it takes 60 ms, and most people write TOML.
        from council.settings.yaml import parse_yaml

        values, lines = parse_yaml(text, str(path))
        return SettingsFile(path, text, values, lines)
    try:
        return SettingsFile(path, text, tomllib.loads(text), {})
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits and very deep brackets raise errors of Python, not of tomllib.
        problem = error if isinstance(error, tomllib.TOMLDecodeError) else "a value is too long or nested too deeply"
        raise Refused("bad_settings", f"{path} is not valid TOML: {problem}.") from None


def _toml_line(text: str, keys: list[str]) -> int:
    found, names = 1, keys
    for number, line in enumerate(text.split("\n"), 1):
        if table := re.match(r"\s*\[{1,2}([^\[\]]+)\]", line):
            path = _toml_path(table[1])
            names = keys[len(path) :] if path and keys[: len(path)] == path else []
            found = number if names or path == keys else found
        elif names and (assigned := re.match(r"\s*([^=#]+?)\s*=", line)):
            path = _toml_path(assigned[1])
            if path and names[: len(path)] == path:
                found, names = number, names[len(path) :]
    return found


def _toml_path(dotted: str) -> list[str]:
    """The names in a TOML key, quoted or bare."""
    try:
        inner: object = tomllib.loads(f"[{dotted}]")
    except ValueError:
        return []
    path = []
    while isinstance(inner, dict) and inner:
        (name,) = inner
        path.append(name)
        inner = inner[name]
    return path
