"""The fields of requests, with their ranges for /api/openapi.json.

The ranges are described here and checked by the rules (schemas/rules/), whose messages name the range.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from schemas.rules.members import NAME_PATTERN, SPEC_OPTIONS
from schemas.rules.tiers import TIERS
from schemas.sessions import MAX_SEED, MAX_TEMPERATURE, MAX_TOKENS_LIMIT, MAX_TURNS, Speaker

# Slower than a quarter is of no use; at 64 an hour takes a minute.
SLOWEST, FASTEST = 0.25, 64.0
# Ten years of windows.
MOST_WINDOWS = 2 * 10**10

_TOKENS_RANGE = {"minimum": 1, "maximum": MAX_TOKENS_LIMIT}
_TEMPERATURE_RANGE = {"minimum": 0, "maximum": MAX_TEMPERATURE}
_SEED_RANGE = {"minimum": 0, "maximum": MAX_SEED}
_NOT_EMPTY = {"minLength": 1}


def _whole(value: object) -> object:
    """A number such as 3.0, which JSON Schema counts as an integer, as one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
MaxTokens = Annotated[Whole, Field(json_schema_extra=dict(_TOKENS_RANGE))]
Temperature = Annotated[float, Field(json_schema_extra=dict(_TEMPERATURE_RANGE))]
Seed = Annotated[Whole, Field(json_schema_extra=dict(_SEED_RANGE))]
# It has more than white space.
Written = Annotated[str, Field(json_schema_extra={"pattern": r"\S"})]
NotEmpty = Annotated[str, Field(json_schema_extra=dict(_NOT_EMPTY))]
OwnName = Annotated[
    str, Field(json_schema_extra={"pattern": f"^({NAME_PATTERN})?$", "not": {"enum": list(SPEC_OPTIONS)}})
]
NamedTier = Annotated[str, Field(json_schema_extra={"enum": list(TIERS)})]
Weights = dict[str, Annotated[float, Field(json_schema_extra={"minimum": 0})]]
# Each member's own options, by its name.
Options = dict[
    str,
    Annotated[
        dict[str, float],
        WithJsonSchema(
            {
                "type": "object",
                "properties": {
                    "temperature": {"type": "number", **_TEMPERATURE_RANGE},
                    "seed": {"type": "integer", **_SEED_RANGE},
                    "max_tokens": {"type": "integer", **_TOKENS_RANGE},
                },
                "additionalProperties": False,
            }
        ),
    ],
]
ByteAt = Annotated[Whole, Field(json_schema_extra={"minimum": 0})]
WordAt = Annotated[Whole, Field(json_schema_extra={"minimum": 1})]
MemberAt = NotEmpty | ByteAt
# 0, or from the slowest to the fastest.
Rate = Annotated[
    float,
    Field(
        json_schema_extra={
            "minimum": 0,
            "maximum": FASTEST,
            "not": {"exclusiveMinimum": 0, "exclusiveMaximum": SLOWEST},
        }
    ),
]
WindowAt = Annotated[Whole, Field(json_schema_extra={"minimum": 0, "maximum": MOST_WINDOWS})]
Step = Annotated[Whole, Field(json_schema_extra={"minimum": -MOST_WINDOWS, "maximum": MOST_WINDOWS})]


class ChatTurn(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Speaker
    content: str


# For the description alone: chat_of checks the messages.
ShownChat = Annotated[
    tuple[ChatTurn, ...],
    Field(
        min_length=1,
        # The turns, the one to be answered, and a system text.
        max_length=MAX_TURNS + 2,
        description="The chat. Only the first message may have the role system; the last one has the role user.",
    ),
]
