"""The tables of the log's schema, and the column types that mean the same on every database.

Read tables are not here: each projection declares its own with `read_table`, in a schema apart.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

NAME_BYTES = 200  # hostnames, groups and ids, by the protocol's grammar
KIND_BYTES = 64
NOTE_BYTES = 1024
READ_SCHEMA = "read"  # stands for `<database>_read`; the engine puts the real name in its place

# SQLite's STRICT tables know five types only, so each type names its own there.
Int64 = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
Int32 = Integer().with_variant(sqlite.INTEGER(), "sqlite")
Int16 = SmallInteger().with_variant(sqlite.INTEGER(), "sqlite")
Float64: TypeEngine[float] = Double().with_variant(sqlite.REAL(), "sqlite")
Blob = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
LongText = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def Bytes(length: int) -> TypeEngine[bytes]:  # noqa: N802 - a column type, like its neighbours
    """At most `length` raw bytes; `length` itself is enforced by MySQL only."""
    return LargeBinary().with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


class Identifier(TypeDecorator[str]):
    """Text compared byte by byte: the usual collations merge `WEB1` with `web1`, and even binary ones pad blanks."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, length: int = NAME_BYTES) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[bytes]:
        return dialect.type_descriptor(Bytes(self.length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.encode()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else value.decode()


metadata = MetaData()


def read_table(name: str, metadata: MetaData, *items: SchemaItem) -> Table:
    """A table of the read schema, as strict and as exact as those of the log on every database."""
    return Table(name, metadata, *items, schema=READ_SCHEMA, **EXACT)


# STRICT: SQLite takes types as hints otherwise. The character set: Debian's MariaDB would say latin1.
EXACT: Final[dict[str, Any]] = {
    "sqlite_strict": True,
    "mysql_engine": "InnoDB",
    "mysql_default_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

# Segments, so that what is old can be dropped instead of deleted. The last partition takes what nobody has planned for.
SEGMENT_ROWS: Final[Mapping[str, int]] = {"event": 10_000_000, "heartbeat_event": 1_000_000}
PLANNED_SEGMENTS: Final = 4


def partitions(name: str) -> str:
    """How a log's table is partitioned at first."""
    rows = SEGMENT_ROWS[name]
    planned = [f"PARTITION p{n} VALUES LESS THAN ({n * rows + 1})" for n in range(1, PLANNED_SEGMENTS + 1)]
    return f"RANGE (seq) ({', '.join(planned)}, PARTITION pmax VALUES LESS THAN MAXVALUE)"


def _event_table(name: str, *indexes: Index, **options: Any) -> Table:  # noqa: ANN401 - of one dialect or the other
    return Table(
        name,
        metadata,
        Column("seq", Int64, primary_key=True, autoincrement=False, comment="gapless, in commit order, from 1"),
        Column("recorded_us", Int64, nullable=False, comment="UTC microseconds of the control plane, growing with seq"),
        Column("kind", Identifier(KIND_BYTES), nullable=False, comment="what happened, as in task.accepted"),
        Column("schema_v", Int16, nullable=False, comment="version of the body's shape"),
        Column("task_id", Identifier(), comment="the task it belongs to, if any"),
        Column("hostname", Identifier(), comment="the host it is about, if any"),
        Column("actor", Identifier(), comment="the person or process that caused it"),
        Column("occurred_us", Int64, comment="UTC microseconds of the sender's clock, for display only"),
        Column("body", Blob, nullable=False, comment="the canonical bytes that were hashed and signed"),
        Column("signature", Bytes(64), comment="Ed25519 over the body, 64 raw bytes"),
        Column("key_id", Identifier(KIND_BYTES), comment="whose signature it is"),
        *indexes,
        **EXACT,
        **options,
    )


def _key_table(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("task_id", Identifier(), primary_key=True, comment="the task, or what else the event is about"),
        Column("kind", Identifier(KIND_BYTES), primary_key=True, comment="the kind, or a word that several share"),
        Column("hostname", Identifier(), primary_key=True, comment="the host, or nothing"),
        Column("part", Identifier(KIND_BYTES), primary_key=True, comment="what else tells two apart, or nothing"),
        Column("digest", Bytes(32), nullable=False, comment="SHA-256 that tells a repeat from a conflict"),
        Column("seq", Int64, nullable=False, comment="the event that has this key"),
        **EXACT,
        sqlite_with_rowid=False,
    )


log_head = Table(
    "log_head",
    metadata,
    Column("log", Identifier(KIND_BYTES), primary_key=True, comment="the table whose head this is"),
    Column("seq", Int64, nullable=False, comment="the last event's seq; this row's lock serialises all appends"),
    Column("recorded_us", Int64, nullable=False, comment="the last event's time, UTC microseconds"),
    Column("tree", Bytes(2048), nullable=False, comment="Merkle tree: a hash for each set bit of seq"),
    Column("closed", Identifier(255), comment="why nothing may be appended, where its end is lost"),
    **EXACT,
)

event = _event_table("event", Index("event_kind", "kind", "seq"), mysql_partition_by=partitions("event"))
event_key = _key_table("event_key")
heartbeat_event = _event_table("heartbeat_event", mysql_partition_by=partitions("heartbeat_event"))
heartbeat_key = _key_table("heartbeat_key")
# Heartbeats that outlive their segment, since the row of a host follows from them.
heartbeat_kept = _event_table("heartbeat_kept")

log_tile = Table(
    "log_tile",
    metadata,
    Column("log", Identifier(KIND_BYTES), primary_key=True, comment="the log whose tree it is a part of"),
    Column("idx", Int64, primary_key=True, autoincrement=False, comment="which 256 events; 0: those from 1 to 256"),
    Column("leaves", Bytes(8192), nullable=False, comment="their 256 leaf hashes"),
    Column("nodes", Bytes(2048), nullable=False, comment="hashes of the subtrees that end here, 256 events upwards"),
    **EXACT,
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("log", Identifier(KIND_BYTES), primary_key=True, comment="the log whose tree was signed"),
    Column("size", Int64, primary_key=True, autoincrement=False, comment="how many events the tree is over"),
    Column("recorded_us", Int64, nullable=False, comment="UTC microseconds at which it was signed"),
    Column("note", Bytes(NOTE_BYTES), nullable=False, comment="the signed note, as C2SP's tlog-checkpoint"),
    **EXACT,
)

EVENT_TABLES: Final[dict[str, Table]] = {"event": event, "heartbeat_event": heartbeat_event}
KEY_TABLES: Final[dict[str, Table]] = {"event": event_key, "heartbeat_event": heartbeat_key}
KEPT_TABLES: Final[dict[str, Table]] = {"heartbeat_event": heartbeat_kept}  # of the logs that lose their old segments

log_segment = Table(
    "log_segment",
    metadata,
    Column("log", Identifier(KIND_BYTES), primary_key=True, comment="the table whose rows these were"),
    Column("last_seq", Int64, primary_key=True, autoincrement=False, comment="the last event of the segment"),
    Column("first_seq", Int64, nullable=False, comment="the first event of the segment"),
    Column("last_us", Int64, nullable=False, comment="the time of the last event, UTC microseconds"),
    Column("root", Bytes(32), nullable=False, comment="Merkle root over the leaves of this segment alone"),
    Column("tree", Bytes(2048), nullable=False, comment="Merkle tree of the whole log at the segment's end"),
    Column("archive", Identifier(255), nullable=False, comment="name of the file that has its events"),
    Column("archive_sha256", Bytes(32), nullable=False, comment="digest of that file"),
    Column("dropped_us", Int64, nullable=False, comment="since when its rows may be gone, UTC microseconds"),
    **EXACT,
)

follower = Table(
    "follower",
    metadata,
    Column("name", Identifier(), primary_key=True, comment="the projection or process, with its version"),
    Column("event_seq", Int64, nullable=False, comment="the last event it has dealt with"),
    Column("heartbeat_seq", Int64, nullable=False, comment="the last heartbeat event it has dealt with"),
    Column("epoch", Int64, nullable=False, comment="fencing number of who may move the position"),
    Column("version", Int32, nullable=False, comment="version of the read table that is shown"),
    **EXACT,
)

lease = Table(
    "lease",
    metadata,
    Column("name", Identifier(), primary_key=True, comment="what only one process at a time does"),
    Column("owner", Identifier(), nullable=False, comment="who does it"),
    Column("epoch", Int64, nullable=False, comment="fencing number, grows with each new owner"),
    Column("until_us", Int64, nullable=False, comment="end of the lease, UTC microseconds of the database's clock"),
    **EXACT,
)

credential = Table(
    "credential",
    metadata,
    Column("username", Identifier(), primary_key=True, comment="the login"),
    Column("phc", Identifier(255), nullable=False, comment="argon2id hash of the password, in PHC form"),
    Column("changed_us", Int64, nullable=False, comment="UTC microseconds of the last change"),
    **EXACT,
)

# A table that is written at any use of the API, and grants nothing: so nobody signs its rows.
token_use = Table(
    "token_use",
    metadata,
    Column("token_id", Identifier(), primary_key=True, comment="the API token"),
    Column("used_us", Int64, nullable=False, comment="UTC microseconds of its last use, as far as it was written"),
    Column("address", Identifier(255), comment="where that came from, if it is known"),
    **EXACT,
)

pending_host = Table(
    "pending_host",
    metadata,
    Column("place", Int32, primary_key=True, autoincrement=False, comment="from 1; so many may wait at once"),
    Column("fingerprint", Identifier(64), nullable=False, unique=True, comment="hex SHA-256 of the public key"),
    Column("hostname", Identifier(), nullable=False, comment="the name that it asked for"),
    Column("public_key", Bytes(32), nullable=False, comment="Ed25519, raw"),
    Column("address", Identifier(64), comment="where it asked from"),
    Column("asked_at", Int64, nullable=False, comment="Unix seconds; a day later it is over"),
    Column("refused", Int16, nullable=False, comment="1 where somebody has said no"),
    **EXACT,
)

# What the application's account may do; the read schema is its own. A log is only ever added to.
RIGHTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("event", "heartbeat_event", "event_key", "heartbeat_key"), "SELECT, INSERT"),
    **dict.fromkeys(("log_tile", "checkpoint"), "SELECT, INSERT"),
    "log_head": "SELECT, UPDATE",
    "pending_host": "SELECT, INSERT, UPDATE, DELETE",
    "follower": "SELECT, INSERT, UPDATE, DELETE",  # with the copies that a rebuild makes
    **dict.fromkeys(("lease", "credential", "token_use"), "SELECT, INSERT, UPDATE"),
    **dict.fromkeys(("heartbeat_kept", "log_segment", "alembic_version"), "SELECT"),
}
