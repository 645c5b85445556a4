"""Errors as JSON, `{"error": {"code", "message"}}` with the right status, and never with a stack trace."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel

from consumers.web.door.limits import TooMany
from runtime.log import Log
from schemas.errors import CouncilError, Refused, SessionGone, Unavailable

# The codes of aiohttp's own errors.
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
OPENAI_ROOT = "/v1/"
# Its texts are in the parameter `prompt`, not in `messages`.
_COMPLETIONS = "/v1/completions"
# The last parts of its paths: a client whose base URL lacks /v1, or has it twice, sends them elsewhere.
_OPENAI_ENDS = ("/chat/completions", "/completions", "/models", "/responses", "/embeddings")
# OpenAI's types of errors, which its clients make exceptions of.
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# A text that is too long: clients know OpenAI's code for it, and some shorten their chat then.
_TOO_LONG = ("prompt_too_long", "body_too_large")
# The parameter that an error is about, where its code does not name it.
_OPENAI_PARAMETERS = {
    "model_not_found": "model", "unknown_model": "model", "no_messages": "messages", "empty_prompt": "messages",
    "context_length_exceeded": "messages", "too_many_messages": "messages", "bad_json": None, "bad_request": None,
    "bad_http": None, "bad_token": None, "bad_message": "messages",
}  # fmt: skip


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def model_response(model: BaseModel, status: int = 200) -> web.Response:
    return web.Response(body=model.model_dump_json().encode(), status=status, content_type="application/json")


def error_response(status: int, code: str, message: str, path: str = "") -> web.Response:
    """An error. At a `path` of the OpenAI-compatible API it also has the fields of OpenAI's errors."""
    is_openai = path.startswith(OPENAI_ROOT)
    if is_openai:
        status, code = _as_openai(status, code)
    error: dict[str, str | None] = {"code": code, "message": message}
    if is_openai:
        error |= {
            "type": _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": _parameter(code, path),
        }
    return json_response({"error": error}, status)


def _as_openai(status: int, code: str) -> tuple[int, str]:
    """(status, code) for clients of OpenAI's API, which know its codes, and repeat a request after a 409."""
    if code in _TOO_LONG:
        return 400, "context_length_exceeded"
    if status == HTTPStatus.CONFLICT:
        return (503 if code == "no_models" else 400), code
    return status, code


def _parameter(code: str, path: str) -> str | None:
    """The parameter that an error of the OpenAI-compatible API is about."""
    name = code.removeprefix("bad_")
    parameter = _OPENAI_PARAMETERS.get(code, name if name != code else None)
    return "prompt" if parameter == "messages" and path == _COMPLETIONS else parameter


def error_of(path: str, error: CouncilError) -> web.Response:
    """The response to a request to `path` that raised this error."""
    match error:
        case Refused():
            response = error_response(error.status, error.code, str(error), path)
            if isinstance(error, TooMany):
                response.headers[hdrs.RETRY_AFTER] = str(error.retry_after_s)
            return response
        case SessionGone():
            return error_response(404, error.code, str(error), path)
        case Unavailable():
            return error_response(503, error.code, str(error), path)
        case _:
            return error_response(500, "session_failed", str(error), path)


def errors_as_json(log: Log) -> Middleware:
    """The outermost middleware: turns exceptions into responses."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except CouncilError as error:
            return error_of(request.path, error)
        except web.HTTPException as error:
            return _refusal(request, error)
        except ConnectionError:
            # The client disconnected: a response cannot be sent, and nothing is wrong here.
            raise
        except Exception:  # a bug of ours: its details are for the log alone
            log.exception("a request failed", path=request.path)
            sentence = "The web server failed on this request; its log has the reason."
            return error_response(500, "internal", sentence, request.path)

    return answer


def _refusal(request: web.Request, error: web.HTTPException) -> web.Response:
    code = _CODES.get(error.status, f"http_{error.status}")
    response = error_response(error.status, code, _sentence(request, error), request.path)
    if hdrs.ALLOW in error.headers:
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return response


def _is_for_openai(path: str) -> bool:
    return f"{path}/".startswith(OPENAI_ROOT) or path.endswith(_OPENAI_ENDS)


def _sentence(request: web.Request, error: web.HTTPException) -> str:
    match error:
        case web.HTTPNotFound() if _is_for_openai(request.path):
            return (
                f"There is no operation at {request.path}: the base URL of the OpenAI-compatible API ends with /v1; "
                "below it are chat/completions, completions and models."
            )
        case web.HTTPNotFound():
            return f"There is no page and no operation at {request.path}."
        case web.HTTPMethodNotAllowed():
            return (
                f"{request.path} does not support {request.method}; supported: "
                f"{', '.join(sorted(error.allowed_methods))}."
            )
        case web.HTTPRequestEntityTooLarge():
            return f"The body has more than {request.client_max_size // 1024} KiB: shorten it."
        case _:
            return f"{error.reason}."
