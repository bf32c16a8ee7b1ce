"""Every error that the API answers: RFC 9457 `application/problem+json` with a stable `code`."""

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from control_plane.commands.passkeys import PasskeyRequiredError
from control_plane.commands.previews import TargetChangedError
from control_plane.commands.rules import ForbiddenError
from control_plane.errors import (
    BacklogFullError,
    BrokerApiError,
    ControlPlaneError,
    InvalidFieldError,
    KeyMissingError,
    LogClosedError,
    NotAllowedError,
    NotFoundError,
    NotSignedInError,
    RefusedError,
    StorageUnavailableError,
    TooManyError,
)
from control_plane.observability import Metrics
from control_plane.wording import in_words

_logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = {"Retry-After": "1"}
ROOM_AFTER: Final = {"Retry-After": "5"}  # a backlog takes its time
MAX_ERRORS: Final = 20  # of all that is wrong with a request; who mends them is told the rest
MAX_FIELD: Final = 256

# A refusal is 422 unless it is about what stands already (409), or about an opaque text that the API gave out (400).
_STATUS_BY_CODE: Final[Mapping[str, int]] = {
    "bad_cursor": 400,
    "bad_position": 400,
    **dict.fromkeys(
        (
            "approval_changed",
            "approval_decided",
            "approval_expired",
            "approval_not_needed",
            "approval_refused",
            "approval_waiting",
            "challenge_expired",
            "changed_meanwhile",
            "host_exists",
            "host_replaced",
            "identity_taken",
            "key_conflict",
            "key_known",
            "last_administrator",
            "not_authorised",
            "not_paused",
            "not_provable",
            "not_to_retry",
            "nothing_to_pause",
            "no_secrets_key",
            "nothing_to_retry",
            "oidc_off",
            "passkey_exists",
            "passkeys_off",
            "preview_expired",
            "preview_required",
            "rebuild_running",
            "request_exists",
            "rules_stand",
            "secret_unreadable",
            "stopped",
            "target_changed",
            "task_cancelled",
            "task_expired",
            "task_finished",
            "template_exists",
            "too_many_approvals",
            "too_many_passkeys",
            "too_many_tokens",
            "user_exists",
        ),
        409,
    ),
}
_CODE_BY_STATUS: Final[Mapping[int, str]] = {
    404: "not_found",
    405: "method_not_allowed",
}


class ProblemError(HTTPException):
    """A request that is answered with a problem, raised where no rule of the business is involved."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.code = code
        self.field = field


class ReadTableBehindError(ProblemError):
    def __init__(self) -> None:
        super().__init__(503, "read_table_behind", "this is not shown yet; ask again", headers=RETRY_AFTER)


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    more_errors: int = 0,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, object] | None = None,
) -> Response:
    metrics: Metrics = request.app.state.services.metrics
    metrics.counter("control_plane_http_problems_total", "Requests answered with a problem.", "code").add(code=code)
    body: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": getattr(request.state, "request_id", None),
        **(more or {}),
    }
    if errors:
        body |= {"errors": list(errors), "more_errors": more_errors}
    # What a client sent may hold lone surrogates; they go out as question marks.
    data = orjson.dumps(_encodable(body))
    return Response(data, status, dict(headers or {}), CONTENT_TYPE)


def _encodable(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {key: _encodable(item) for key, item in value.items()}
        case list():
            return [_encodable(item) for item in value]
    return value


def install(app: FastAPI) -> None:
    """Answer every exception of a route with a problem."""
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(StorageUnavailableError, _unavailable)
    app.add_exception_handler(BrokerApiError, _no_broker)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, http_problem)
    app.add_exception_handler(ControlPlaneError, internal_error)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - by its registration
    headers: dict[str, str] = {}
    match error:
        case NotSignedInError():
            status = 401
            headers["WWW-Authenticate"] = "Bearer"
        case NotAllowedError():
            status = 403
        case NotFoundError():
            status = 404
        case BacklogFullError():
            status = 503
            headers |= ROOM_AFTER
        case TooManyError():
            status = 429
            headers["Retry-After"] = str(math.ceil(error.wait_s))
        case _:
            status = _STATUS_BY_CODE.get(error.code, 422)
    more: dict[str, object] = {}
    if isinstance(error, TargetChangedError):
        more = {"joined": error.joined, "left": error.left}
    elif isinstance(error, ForbiddenError):
        more = {
            "action": error.action,
            "hosts": error.hosts,
            "more_hosts": error.more_hosts,
            "rules": error.rules,
        }
    elif isinstance(error, PasskeyRequiredError):
        more = {"challenge": error.challenge, "options": orjson.loads(error.options)}
    elif isinstance(error, BacklogFullError):
        more = {"waiting": error.waiting, "most": error.most}
    errors = [{"field": error.field, "message": error.rule}] if isinstance(error, InvalidFieldError) else []
    return problem(request, status, error.code, error.detail, errors=errors, headers=headers, more=more)


async def _unavailable(request: Request, error: Exception) -> Response:
    _logger.warning("storage unavailable", extra={"reason": str(error)})
    if isinstance(error, LogClosedError):
        return problem(request, 503, "log_closed", str(error))
    if isinstance(error, KeyMissingError):
        return problem(request, 503, "signing_key_missing", str(error), headers=RETRY_AFTER)
    detail = "the database does not answer; the same request again is safe"
    return problem(request, 503, "storage_unavailable", detail, headers=RETRY_AFTER)


async def _no_broker(request: Request, error: Exception) -> Response:
    _logger.error("broker's management API", extra={"reason": str(error)})
    detail = "the broker makes no account just now; the same request again is safe, and the server's log says why"
    return problem(request, 503, "broker_unavailable", detail, headers=RETRY_AFTER)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - by its registration
    found = error.errors()
    errors = [{"field": _field(e["loc"]), "message": _message(e)} for e in found[:MAX_ERRORS]]
    more_errors = len(found) - len(errors)
    detail = f"{errors[0]['field']}: {errors[0]['message']}"
    if more_errors:
        detail += f" ({len(found)} errors, of which {MAX_ERRORS} are listed)"
    return problem(request, 422, "invalid_request", detail, errors=errors, more_errors=more_errors)


def _field(location: tuple[int | str, ...]) -> str:
    """`body, target, host` is told as `target.host`; the body as a whole as `body`."""
    return (".".join(str(part) for part in location[1:]) or str(location[0]))[:MAX_FIELD]


def _message(error: Mapping[str, Any]) -> str:
    return in_words(error["type"], str(error["msg"]), error.get("ctx"))


async def http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - by its registration
    code, errors = _CODE_BY_STATUS.get(error.status_code, "bad_request"), []
    if isinstance(error, ProblemError):
        code = error.code
        errors = [{"field": error.field, "message": error.detail}] if error.field else []
    headers = _allowed(request) if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    return problem(request, error.status_code, code, error.detail, errors=errors, headers=headers)


def _allowed(request: Request) -> Mapping[str, str]:
    """All methods of that path: each of them is a route of its own here, and the first would tell of itself only."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return {"Allow": ", ".join(sorted({method for route in routes for method in route.methods}))}


async def internal_error(request: Request, error: Exception) -> Response:
    """Whatever was not foreseen: the log has the trace, and the answer the id to find it by."""
    _logger.error("request failed", exc_info=error)
    detail = "something went wrong here; the server's log has it under this request_id"
    return problem(request, 500, "internal_error", detail)


SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": ["string", "null"]},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "more_errors": {"type": "integer", "description": f"that `errors`, which has {MAX_ERRORS} at most, leaves out"},
    },
}
