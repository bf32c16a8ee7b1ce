"""Lists of hosts: what SQL can say of a filter, and the hosts that this leaves, looked at in blocks for the rest.

A label, what a heartbeat says and a pattern are looked at here, so that every database answers alike.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import ColumnElement, CursorResult, FromClause, Select, String, func, literal, not_, or_, select

from control_plane.host_query import STATES, HostFacts, HostQuery, Term, drifts
from control_plane.projections.hosts import facts_of
from control_plane.projections.queries.pages import contains, parse_cursor
from control_plane.projections.queries.scopes import Names, of_hosts
from control_plane.projections.rows import json_text

BLOCK: Final = 1000  # hosts that are looked at in one go, while nothing else goes on
HEARD: Final = "presence_seq"  # where this is among the columns, something is needed that heartbeats say
_COLUMNS: Final[Mapping[str, Collection[str]]] = {
    "group": ("groups",),
    "label": ("labels",),
    "os": ("heartbeat", HEARD),
    "agent": ("heartbeat", HEARD),
    "maintenance": ("maintenance",),
    "quarantined": ("quarantined_us",),
    "drift": ("groups", "groups_bound", HEARD),
    "basic": ("heartbeat", "last_heartbeat_us", HEARD),
}

Row: TypeAlias = Mapping[Any, Any]
Rows: TypeAlias = Callable[[Select[Any]], Awaitable[Sequence[Row]]]
"""What has the rows of a statement; all that heartbeats say in each, where HEARD is among its columns."""


def rows_of(result: CursorResult[Any]) -> list[Row]:
    """As dictionaries: what is not in a mapping of the driver's is told by an error, which costs more than the row."""
    keys = tuple(result.keys())
    return [dict(zip(keys, row, strict=True)) for row in result]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFilter:
    """Every given one must hold."""

    q: HostQuery = HostQuery()  # noqa: RUF009 - it is immutable
    state: Collection[str] = ()
    group: str | None = None

    @property
    def states(self) -> Collection[str]:
        """Those that are listed: what is asked for, else all but that of hosts which are gone."""
        return self.state or [state for state in STATES if state != "retired" or state in self.q.states]


async def listed(
    rows: Rows, t: FromClause, wanted: HostFilter, names: Names, *, cursor: str | None, limit: int
) -> tuple[Sequence[Row], dict[str, int]]:
    """The rows of a page of hosts with one more behind it, by name, and the numbers by state of all that match.

    Args:
        t: with the columns of `host`.
    """
    conditions, left = _split(t, wanted.q)
    base = [t.c.pos > 0, *of_hosts(t.c.hostname, names), *conditions]
    if wanted.group:
        base.append(_in_group(t, wanted.group))
    after = None if cursor is None else parse_cursor(cursor, str)
    page = select(t).order_by(t.c.hostname).limit(limit + 1)
    if left.terms:
        found = await _matching(rows, t, base, left)
        counts = dict(Counter(state for _, state in found))
        listed_names = [name for name, state in found if state in wanted.states and (after is None or name > after)]
        return await rows(page.where(t.c.hostname.in_(listed_names[: limit + 1]))), counts
    if after is not None:
        page = page.where(t.c.hostname > after)
    shown = await rows(page.where(*base, t.c.state.in_(wanted.states)))
    counting = await rows(select(t.c.state, func.count().label("hosts")).where(*base).group_by(t.c.state))
    return shown, {row["state"]: row["hosts"] for row in counting}


def _split(t: FromClause, query: HostQuery) -> tuple[list[ColumnElement[bool]], HostQuery]:
    """Conditions on the columns of `host`, and what of the query they do not say."""
    conditions, left = [], []
    for term in query.terms:
        one_of = [_condition(t, term, value) for value in term.values]
        known = [condition for condition in one_of if condition is not None]
        if len(known) < len(one_of):
            left.append(term)
        else:
            conditions.append(not_(or_(*known)) if term.negated else or_(*known))
    return conditions, HostQuery(tuple(left))


def _condition(t: FromClause, term: Term, value: str) -> ColumnElement[bool] | None:
    """None where it takes more than SQL."""
    match term.field, value:
        case "state", state:
            return t.c.state == state
        case "is", "maintenance":
            return t.c.maintenance != 0
        case "is", "quarantined":
            return t.c.quarantined_us.is_not(None)
        case "name", part if "*" not in part:
            return contains(t.c.hostname, part)
        case "group", group if "*" not in group:
            return _in_group(t, group)
    return None


def _in_group(t: FromClause, group: str) -> ColumnElement[bool]:
    """No name of a group is a part of another one's with its quotes."""
    return func.instr(t.c.groups, literal(json_text(group), String())) > 0


async def _matching(
    rows: Rows, t: FromClause, conditions: Collection[ColumnElement[bool]], query: HostQuery
) -> list[tuple[str, str]]:
    """The hostname and the state of each host that is within the conditions and matches, by name."""
    matches, found = query.matches, list[tuple[str, str]]()
    columns = [column for column in t.c if column.name in _needed(query)]
    after: Sequence[ColumnElement[bool]] = ()
    while True:
        block = await rows(select(*columns).where(*conditions, *after).order_by(t.c.hostname).limit(BLOCK))
        found += ((row["hostname"], row["state"]) for row in block if matches(_facts_of(row)))
        if len(block) < BLOCK:
            return found
        after = (t.c.hostname > block[-1]["hostname"],)


def _needed(query: HostQuery) -> set[str]:
    looked_at = {what for term in query.terms for what in (term.values if term.field == "is" else (term.field,))}
    return {"hostname", "state"}.union(*(_COLUMNS.get(what, ()) for what in looked_at))


def _facts_of(row: Row) -> HostFacts:
    """Of a row with the columns that are needed; what is not is as if it were not said."""
    said = facts_of(row.get("heartbeat"))
    return HostFacts(
        hostname=row["hostname"],
        state=row["state"],
        groups=row.get("groups", ()),
        labels=row.get("labels"),
        os=_text(said.get("os")),
        agent_version=_text(said.get("agent_version")),
        maintenance=bool(row.get("maintenance")),
        drift=drifts(row.get("groups", ()), row.get("groups_bound")),
        quarantined=row.get("quarantined_us") is not None,
        basic=row.get("last_heartbeat_us") is not None and "agent_version" not in said,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None  # from before it was a field of ours it may be anything
