"""The types of single fields: what may be sent, and the forms that answers have in common."""

import asyncio
import unicodedata
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr

from control_plane.api.problems import ProblemError, ReadTableBehindError
from control_plane.api.services import Services
from control_plane.host_query import MAX_CHARACTERS
from control_plane.projections.moments import micros_of
from control_plane_wire.errors import WireError
from control_plane_wire.messages import MAX_ARGUMENT_BYTES
from control_plane_wire.signing import decode_public_key
from control_plane_wire.topology import MAX_NAME, is_name, is_task_id

MAX_LINE: Final = 256
MAX_SEQ: Final = 2**53 - 1
MIN_SEQ_WAIT_S: Final = 2.0
POLL_S: Final = 0.05
_BIDIRECTIONAL: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NAME_RULE: Final = "has to be lower-case labels of a-z 0-9 _ - joined by dots"

# What the description tells of the grammars that the validators below judge by, so that clients can check them, too. It
# is ECMA-262, as JSON Schema asks for: there is no \A and \z.
_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_UNSHOWN: Final = r"\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_NAME: Final = Field(min_length=1, max_length=MAX_NAME, json_schema_extra={"pattern": rf"^{_LABEL}(\.{_LABEL})*$"})
_TASK_ID: Final = Field(min_length=1, max_length=64, json_schema_extra={"pattern": "^[A-Za-z0-9_-]+$"})
_LINE: Final = Field(min_length=1, max_length=MAX_LINE, json_schema_extra={"pattern": f"^[^{_UNSHOWN}]+$"})


class Request(BaseModel):
    """What a client sends: a field that would be ignored is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _name(text: str) -> str:
    lower = text.lower()
    if not is_name(lower):
        raise ValueError(_NAME_RULE)
    return lower


def _task_id(text: str) -> str:
    if not is_task_id(text):
        raise ValueError("has to be 1 to 64 of A-Z a-z 0-9 _ -")
    return text


def one_line(text: str) -> str:
    """Text that shows as what it is: no control characters, nothing that turns its direction."""
    if any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} or character in _BIDIRECTIONAL for character in text):
        raise ValueError("has control characters in it")
    return text


def _argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("has a NUL in it")
    if len(text.encode()) > MAX_ARGUMENT_BYTES:
        raise ValueError(f"has more than {MAX_ARGUMENT_BYTES} bytes")
    return text


def _command(text: str) -> str:
    if not text.strip():
        raise ValueError("says nothing to run")
    return _argument(text)


Name = Annotated[StrictStr, _NAME, AfterValidator(_name)]
TaskId = Annotated[StrictStr, _TASK_ID, AfterValidator(_task_id)]
Line = Annotated[StrictStr, _LINE, AfterValidator(one_line)]
Text = Annotated[StrictStr, AfterValidator(_argument)]
Command = Annotated[StrictStr, AfterValidator(_command)]
Username = Annotated[StrictStr, Field(pattern="^[a-z][a-z0-9._-]{0,63}$")]
Seconds = Annotated[StrictInt, Field(ge=1, le=86_400)]
TemplateName = Annotated[StrictStr, Field(pattern="^[a-z][a-z0-9_-]{0,63}$")]

Hostname = Annotated[Name, Path()]
GroupName = Annotated[Name, Path()]
TaskIdPath = Annotated[TaskId, Path()]
Seq = Annotated[int, Query(ge=0, le=MAX_SEQ)]
Limit = Annotated[int, Query(ge=1, le=1000, description="at most so many items")]
Cursor = Annotated[str | None, Query(max_length=MAX_LINE, description="`next_cursor` of the page before")]
Word = Annotated[
    str | None,
    Query(max_length=MAX_LINE, json_schema_extra={"pattern": f"^[^{_UNSHOWN}]*$"}),
    AfterValidator(lambda text: text and one_line(text)),
]

_OF_QUERY: Final[dict[str, Any]] = {
    "max_length": MAX_CHARACTERS,
    "json_schema_extra": {"pattern": f"^[^{_UNSHOWN}]*$"},
}
HostTerms = Annotated[str, Query(**_OF_QUERY), AfterValidator(one_line)]
HostTermsOfBody = Annotated[StrictStr, Field(min_length=1, **_OF_QUERY), AfterValidator(one_line)]
"""A host query in an address or in a body: `control_plane.host_query` says what is in it."""


def _checked_time(text: str | None) -> str | None:
    if text is not None:
        micros_of(text)
    return text


FromTime = Annotated[
    str | None,
    Query(alias="from", max_length=64, description="RFC 3339", json_schema_extra={"format": "date-time"}),
    AfterValidator(_checked_time),
]
ToTime = Annotated[
    str | None,
    Query(alias="to", max_length=64, description="RFC 3339", json_schema_extra={"format": "date-time"}),
    AfterValidator(_checked_time),
]

# --- answers ----------------------------------------------------------------------------------------------------------

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC."""


def time_of(micros: int | None) -> str | None:
    """A moment in UTC microseconds as the API tells it."""
    return None if micros is None else at(micros)


def at(micros: int) -> str:
    seconds, rest = divmod(micros, 1_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"


def at_s(seconds: int) -> str:
    return at(seconds * 1_000_000)


T = TypeVar("T")


class Answer(BaseModel):
    """What the API answers. Built by us from rows that the types have checked already."""

    model_config = ConfigDict(frozen=True)


class Items(Answer, Generic[T]):
    items: list[T]


class Listing(Answer, Generic[T]):
    """A page of a list.

    Attributes:
        next_cursor: null on the last page.
        total, counts: of all that match, by state; null where nobody counts.
        as_of: the position in both logs that the page is at least as new as; opaque.
    """

    items: list[T]
    next_cursor: str | None = None
    total: int | None = None
    counts: Mapping[str, int] | None = None
    as_of: str


async def wait_for_seq(services: Services, projection: str, seq: int | None) -> None:
    """Wait until a read table has come to an event. Raises ReadTableBehindError after 2 s."""
    if seq is not None and not await services.hub.wait_for(projection, seq, timeout_s=MIN_SEQ_WAIT_S):
        raise ReadTableBehindError


async def wait_for_authority(services: Services, seq: int | None, *, waits: bool = True) -> None:
    """The same for what is answered from memory: people, tokens, keys; it reads nothing.

    Args:
        waits: False: raise at once, as for strangers, who would keep this process busy.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + (MIN_SEQ_WAIT_S if waits else 0.0)
    while seq is not None and services.authority.position < seq:
        if loop.time() >= ends:
            raise ReadTableBehindError
        await services.hub.wait_moved(timeout_s=POLL_S)


def one_of(allowed: Collection[str]) -> AfterValidator:
    """For a filter: each of the words between the commas has to be one of these."""

    def check(text: str | None) -> str | None:
        if text is not None and not set(text.split(",")) <= set(allowed):
            raise ValueError(f"has to be one or several of {', '.join(allowed)}")
        return text

    return AfterValidator(check)


D = TypeVar("D")


def decoded(field: str, text: str, decode: Callable[[str], D]) -> D:
    """A field of base64. Raises ProblemError that names it."""
    try:
        return decode(text)
    except WireError as error:
        raise ProblemError(422, "invalid_request", str(error), field=field) from error


def public_key_of(text: str) -> bytes:
    return decoded("public_key", text, decode_public_key)
