"""`python docs/event_schemas.py`: writes docs/protocol/<type>.schema.json, one for each message of the protocol.

They are made from the structs in schemas/events.py, for clients that check what they receive; a test compares them.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import msgspec
from wire_structs import FIELD_LINE

sys.path.insert(0, str(Path(__file__).parent.parent))

from schemas.events import MESSAGES

FOLDER = Path(__file__).parent / "protocol"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"

# The keys of each message beside its payload.
_ENVELOPE = {
    "type": "the message's type.",
    "channel": "the kind of its content.",
    "timestamp": "when it was composed, in ms of Unix time.",
    "frameNumber": "its window on the global 60 Hz grid; it rises from one session to the next.",
}


def schema_of(message: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of one message: it allows what the struct allows, and requires every key that is always sent."""
    schema = msgspec.json.schema(message)
    name = schema.pop("$ref").rsplit("/", 1)[1]
    parts = schema["$defs"]
    for part in parts.values():
        complete(part)
    own = parts.pop(name)
    return {"$schema": _DIALECT, **own, **({"$defs": parts} if parts else {})}


def complete(part: dict[str, Any]) -> None:
    """Adds what msgspec leaves out of an object's schema: what its docstring says of each key, and that every key which
    is always sent is required."""
    docstring = inspect.cleandoc(part["description"])
    meanings = {key: text for key, text in _ENVELOPE.items() if key in part.get("properties", {})}
    meanings |= dict(FIELD_LINE.findall(docstring))
    part["description"] = " ".join(FIELD_LINE.sub("", docstring).split())
    for key, meaning in meanings.items():
        # Beside a reference a description has no effect.
        if "$ref" not in part["properties"][key]:
            part["properties"][key]["description"] = " ".join(meaning.split())
    if "properties" in part:
        # A key with one possible value has a default in the struct, but is always sent.
        fixed = [key for key, value in part["properties"].items() if value.pop("default", None) is not None]
        part["required"] = [*part["required"], *fixed]


def texts() -> dict[str, str]:
    """The content of each file, by its name."""
    found = {}
    for message in MESSAGES:
        schema = msgspec.json.encode(schema_of(message))
        found[f"{message.__struct_config__.tag}.schema.json"] = msgspec.json.format(schema, indent=2).decode() + "\n"
    return found


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
