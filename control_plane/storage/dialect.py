"""All in which the databases differ; only `mysql.py` with its `mysql_text.py`, and `sqlite.py`, know one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from sqlalchemy import ColumnElement, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

Value: TypeAlias = int | float | bool | str | bytes | None
KeyBytes: TypeAlias = tuple[bytes, bytes, bytes, bytes]
# The columns of a log's table: seq, recorded_us, kind, schema_v, task_id, hostname, actor, occurred_us, body, signature
# and key_id.
EventColumns: TypeAlias = tuple[
    int,
    int,
    str,
    int,
    str | None,
    str | None,
    str | None,
    int | None,
    bytes,
    bytes | None,
    str | None,
]


def decoded(row: Sequence[Any]) -> EventColumns:
    """The columns of a log's table from what it keeps: texts in their bytes. Raises UnicodeDecodeError."""
    seq, recorded_us, kind, schema_v, task_id, hostname, actor, occurred_us, body, signature, key_id = row
    return (
        seq,
        recorded_us,
        kind.decode(),
        schema_v,
        None if task_id is None else task_id.decode(),
        None if hostname is None else hostname.decode(),
        None if actor is None else actor.decode(),
        occurred_us,
        body,
        signature,
        None if key_id is None else key_id.decode(),
    )


@dataclass(frozen=True, slots=True)
class Account:
    """An account of a database.

    Attributes:
        name: as SQL has it, with its quotes.
        grants: what it has, in the server's words.
    """

    name: str
    grants: Sequence[str] = ()


class Dialect(Protocol):
    """One database's ways. Whatever runs SQL here runs in the caller's transaction, unless it says otherwise."""

    @property
    def name(self) -> str:
        """What people call it, with its version."""
        ...

    @property
    def read_schema(self) -> str | None:
        """The schema of the read tables; None where they live beside the log."""
        ...

    @property
    def has_one_writer(self) -> bool:
        """Whether a second writing transaction fails or polls, instead of waiting its turn."""
        ...

    @property
    def most_quiet_s(self) -> float:
        """How long a kept connection may be quiet between two transactions, before the server may end it."""
        ...

    @property
    def needs_administrator(self) -> bool:
        """Whether the upkeep of the logs wants rights that the application's account should not have."""
        ...

    def clock_us(self) -> ColumnElement[int]:
        """The database's own clock at the statement, in UTC microseconds: one for all processes."""
        ...

    async def run(self, connection: AsyncConnection, sql: str) -> Sequence[Any]:
        """The rows of a statement that has nothing to bind, in as few steps as there can be."""
        ...

    def ready(self, values: Sequence[Value]) -> Sequence[Value]:
        """Neighbouring columns of a row in the form that costs `bulk_insert` least: what can be made early is."""
        ...

    async def bulk_insert(self, connection: AsyncConnection, table: Table, rows: Sequence[Sequence[Value]]) -> None:
        """Insert rows that have all columns of `table` in their order; as few statements as the server takes.

        Some columns of a row may be as `ready` gives them.
        """
        ...

    async def bulk_upsert(self, connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Value]]) -> None:
        """Insert rows, or where the primary key is there already, update the given columns of that row.

        Every row has the same columns. Rows are sorted by primary key first: upserts in random order deadlock.
        """
        ...

    async def find_keys(
        self, connection: AsyncConnection, table: Table, keys: Sequence[KeyBytes]
    ) -> list[tuple[KeyBytes, bytes, int]]:
        """The (key, digest, seq) of those `keys`, primary keys of the key table `table`, that are there."""
        ...

    async def delete_keys(self, connection: AsyncConnection, table: Table, keys: Sequence[KeyBytes], upto: int) -> None:
        """Delete those of `keys` from the key table `table` that belong to events up to that seq."""
        ...

    async def segments(self, connection: AsyncConnection, table: Table, rows: int) -> list[int]:
        """The last seqs of a log's segments, ascending; of those that exist, or are planned.

        Args:
            rows: how many events a segment has where the database does not know segments of its own; the last one
                then never fills.
        """
        ...

    async def add_segments(self, connection: AsyncConnection, table: Table, last_seqs: Sequence[int]) -> None:
        """Plan further segments after those that are there. MySQL commits by itself here.

        Raises:
            StorageUnavailableError: readers were in the way; try again.
        """
        ...

    async def drop_segment(self, connection: AsyncConnection, table: Table, upto: int) -> bool:
        """Remove the rows up to that seq, the end of a segment, which `log_segment` must have; whether all are gone.

        Where they are not, some are: commit, and call it again. MySQL commits by itself here.

        Raises:
            StorageUnavailableError: readers were in the way; try again.
        """
        ...

    async def leaf_data(
        self, connection: AsyncConnection, table: Table, after: int, upto: int, *, below_bytes: int
    ) -> bytes:
        """What the log's tree hashes of each event after one seq and up to another, one behind the other.

        The bytes of `events.merkle.leaf_data`, each behind a 0x00, made by the database: one value instead of eleven
        columns for each event. Events whose body has `below_bytes` or more are left out.
        """
        ...

    async def event_rows(
        self, connection: AsyncConnection, table: Table, after: int, upto: int, *, below_bytes: int
    ) -> Sequence[EventColumns]:
        """The events after one seq and up to another, in order, the quickest way that there is.

        Events whose body has `below_bytes` or more are left out.
        """
        ...

    async def event_rows_at(
        self, connection: AsyncConnection, table: Table, seqs: Sequence[int], *, below_bytes: int
    ) -> Sequence[EventColumns]:
        """Those events that are there, in any order, as `event_rows` has them."""
        ...

    async def digest_rows(
        self, connection: AsyncConnection, table: Table, condition: ColumnElement[bool]
    ) -> tuple[int, bytes]:
        """How many rows of a table a condition holds for, and 32 bytes that say whether two copies have the same ones.

        It is made by the database, from all columns; the same digest on another database means nothing.
        """
        ...

    async def create_read_table(self, connection: AsyncConnection, table: Table, *, indexed: bool = True) -> None:
        """Create a read table, and the read schema, where they are missing. MySQL commits by itself here.

        Args:
            indexed: False leaves the indexes to `create_read_indexes`, which is quicker once the table is full.

        Raises:
            ConfigurationError: the account may not; the text names the missing GRANT.
        """
        ...

    async def create_read_indexes(self, connection: AsyncConnection, table: Table) -> None:
        """Create the indexes of a read table where they are missing. MySQL commits by itself here."""
        ...

    async def drop_read_table(self, connection: AsyncConnection, table: Table) -> None:
        """Drop a read table where it is there. MySQL commits by itself here."""
        ...

    def grants(self, account: Account) -> list[str]:
        """Statements that give the application's account all that it needs; none where there are no accounts."""
        ...

    def excess(self, account: Account) -> list[str]:
        """Statements that take from the application's account what lets it change the log."""
        ...

    async def read_table_names(self, connection: AsyncConnection) -> set[str]:
        """The tables that are in the read schema; where the log lives beside them, its tables too."""
        ...

    async def rename_read_tables(self, connection: AsyncConnection, names: Sequence[tuple[str, str]]) -> None:
        """Give tables of the read schema new names, (from, to) in that order, for all readers at one moment.

        Names that are not there are left out. MySQL commits by itself here.

        Raises:
            StorageUnavailableError: a reader has held one of them for too long; nothing was renamed.
        """
        ...

    def translate(self, error: DBAPIError) -> Exception:
        """Name what a driver's error means to the caller; the error itself where it is a defect of ours.

        StorageUnavailableError: transient, or nothing is known. DuplicateKeyError: the same again, after a look, will
        find the row that came first. UnstorableError: the values will never do. ConfigurationError: a missing right.
        """
        ...


def possible_renames(names: Sequence[tuple[str, str]], there: set[str]) -> Iterator[tuple[str, str]]:
    """Those renames, in their order, whose first name is there by then."""
    for old, new in names:
        if old in there:
            there = there - {old} | {new}
            yield old, new
