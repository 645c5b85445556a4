"""Errors as JSON, `{"error": {"code", "message"}}` with the right status, and never with a stack trace."""

from __future__ import annotations

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel

from consumers.web.door.limits import TooMany
from runtime.log import Log
from schemas.errors import Refused, SessionGone, Unavailable

# The codes of aiohttp's own errors.
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def model_response(model: BaseModel, status: int = 200) -> web.Response:
    return web.Response(body=model.model_dump_json().encode(), status=status, content_type="application/json")


def error_response(status: int, code: str, message: str) -> web.Response:
    return json_response({"error": {"code": code, "message": message}}, status)


def errors_as_json(log: Log) -> Middleware:
    """The outermost middleware: turns exceptions into responses."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except TooMany as error:
            response = error_response(error.status, error.code, str(error))
            response.headers[hdrs.RETRY_AFTER] = str(error.retry_after_s)
            return response
        except Refused as error:
            return error_response(error.status, error.code, str(error))
        except SessionGone as error:
            return error_response(404, error.code, str(error))
        except Unavailable as error:
            return error_response(503, error.code, str(error))
        except web.HTTPException as error:
            return _refusal(request, error)
        except ConnectionError:
            # The client disconnected: a response cannot be sent, and nothing is wrong here.
            raise
        except Exception:  # a bug of ours: its details are for the log alone
            log.exception("a request failed", path=request.path)
            return error_response(500, "internal", "The web server failed on this request; its log has the reason.")

    return answer


def _refusal(request: web.Request, error: web.HTTPException) -> web.Response:
    code = _CODES.get(error.status, f"http_{error.status}")
    response = error_response(error.status, code, _sentence(request, error))
    if hdrs.ALLOW in error.headers:
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return response


def _sentence(request: web.Request, error: web.HTTPException) -> str:
    match error:
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
