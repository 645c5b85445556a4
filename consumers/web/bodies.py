"""The body of POST /api/sessions, checked where it comes in. What the sentence of an error says is written here."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import Refused
from schemas.sessions import SessionRequest

_DEFAULTS = SessionRequest(prompt="")


class SessionBody(BaseModel):
    """What a person may ask for. Ranges are the admission's business, which knows the models."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prompt: str
    models: tuple[str, ...] = ()
    weights: dict[str, float] = {}
    tier: str | None = None
    system: str = ""
    max_tokens: int = _DEFAULTS.max_tokens
    seed: int | None = None
    temperature: float = _DEFAULTS.temperature

    def request(self) -> SessionRequest:
        """The same, less the tier."""
        return SessionRequest(**self.model_dump(exclude={"tier"}))


def session_body(raw: bytes) -> SessionBody:
    """The body in `raw`. Raises Refused with one sentence about the first thing that is wrong."""
    try:
        return SessionBody.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise Refused("bad_json", f"The body is no JSON ({first['msg'].removeprefix('Invalid JSON: ')}).")
    if not first["loc"]:
        raise Refused("bad_request", 'The body is no JSON object: send one such as {"prompt": "..."}.')
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        raise Refused(
            "bad_request", f"There is no field {field!r}: the fields are {', '.join(SessionBody.model_fields)}."
        )
    if first["type"] == "missing":
        raise Refused("bad_request", f"The field {field!r} is missing.")
    raise Refused("bad_request", f"The field {field!r} is wrong: {_lowered(first['msg'])}.")


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
