"""Lists by keyset: a page, and an opaque cursor for the next one."""

import base64
import binascii
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import orjson
from sqlalchemy import ColumnElement, Select, String, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import RefusedError
from control_plane.projections.positions import Positions
from control_plane.projections.queries.live import HOSTS
from control_plane.projections.rows import Json, json_text
from control_plane.storage.tables import Identifier, follower

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Attributes: `total` and `counts` (by state) are of all that match; `as_of`: at least that new."""

    items: Sequence[T]
    next_cursor: str | None
    as_of: Positions
    total: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


def page_of(
    found: Sequence[T],
    counts: Mapping[str, int],
    states: Collection[str],
    *,
    key: Callable[[T], str | int],
    limit: int,
    as_of: Positions,
) -> Page[T]:
    """A page of what was found, one more than its limit; `states` are those that were asked for, none for all."""
    return Page(
        items=found[:limit],
        next_cursor=cursor_of(key(found[limit - 1])) if len(found) > limit else None,
        as_of=as_of,
        total=sum(counts.get(state, 0) for state in states or counts),
        counts=counts,
    )


def cursor_of(key: str | int) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(key)).decode().rstrip("=")


def parse_cursor(text: str, kind: type[T]) -> T:
    """The key that a cursor holds. Raises RefusedError `bad_cursor` for anything that `cursor_of` did not make."""
    try:
        key = orjson.loads(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)))
    except (binascii.Error, ValueError) as error:
        raise RefusedError("bad_cursor", "this is no cursor that a list gave") from error
    is_whole = isinstance(key, str | int) and cursor_of(key) == text
    if type(key) is not kind or not is_whole or (isinstance(key, int) and not 0 <= key < 2**63):
        raise RefusedError("bad_cursor", "this is no cursor that this list gave")
    return key


def contains(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """Whether a text is somewhere in an identifier, or in what a column of JSON text has between its quotes."""
    if isinstance(column.type, Json):
        return func.instr(column, literal(json_text(text)[1:-1], String())) > 0
    return func.instr(column, literal(text, Identifier())) > 0


async def position_of(connection: AsyncConnection, name: str) -> Positions:
    """How far a projection has come; read it before the rows, which are then at least as new.

    In the heartbeats that is as far as the hosts have, whichever it is: rows that show none miss none, and a stream
    that goes on from there need not be told of all the hosts that were ever heard.
    """
    statement = select(follower.c.name, follower.c.event_seq, follower.c.heartbeat_seq).where(
        follower.c.name.in_({name, HOSTS.name})
    )
    rows = {row.name: row for row in await connection.execute(statement)}
    event_seq = rows[name].event_seq if name in rows else 0
    return Positions(event_seq, rows[HOSTS.name].heartbeat_seq if HOSTS.name in rows else 0)


async def counts_of(connection: AsyncConnection, counting: Select[str, int]) -> dict[str, int]:
    """The counts of a `SELECT state, COUNT(*) … GROUP BY state`."""
    return {row[0]: row[1] for row in await connection.execute(counting)}
