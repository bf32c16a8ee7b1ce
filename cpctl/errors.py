"""How a call of cpctl may end, and with which status."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

OK, HOST_FAILED, USAGE, NO_HOST, NOT_ALLOWED, NO_ANSWER, CANCELLED, UNREACHABLE = range(8)
INTERRUPTED: Final = 130


class CpctlError(Exception):
    """It ends here: what is told the operator, and the exit status."""

    def __init__(self, text: str, status: int = USAGE) -> None:
        super().__init__(text)
        self.status = status


class UnreachableError(CpctlError):
    """The server does not answer, or says that it cannot just now."""

    def __init__(self, text: str) -> None:
        super().__init__(text, UNREACHABLE)


class ProblemError(CpctlError):
    """What the server has refused.

    Attributes:
        code: stable, of the API.
        errors: of single fields: `field` and `message`.
        body: the whole problem.
    """

    def __init__(self, http_status: int, body: Mapping[str, Any]) -> None:
        self.http_status = http_status
        self.body = body
        self.code = str(body.get("code", f"http_{http_status}"))
        self.errors: Sequence[Mapping[str, str]] = body.get("errors") or ()
        super().__init__(self._text(), NOT_ALLOWED if http_status in (401, 403, 429) else USAGE)

    def _text(self) -> str:
        detail = str(self.body.get("detail") or f"the server answered {self.http_status}")
        if self.code == "not_signed_in":
            return f"{detail}; `cpctl login` signs you in"
        return f"{detail} ({self.code})"
