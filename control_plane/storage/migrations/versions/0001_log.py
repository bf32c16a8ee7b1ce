"""The two event logs with their keys and heads, and the rows that processes keep: positions, leases, credentials."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, sqlite

from control_plane.storage import mysql as mysql_storage
from control_plane.storage import sqlite as sqlite_storage

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

EXACT: dict[str, Any] = {
    "sqlite_strict": True,
    "mysql_engine": "InnoDB",
    "mysql_default_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
PARTITIONS = (
    "RANGE (seq) (PARTITION p1 VALUES LESS THAN (10000001), PARTITION p2 VALUES LESS THAN (20000001), "
    "PARTITION p3 VALUES LESS THAN (30000001), PARTITION p4 VALUES LESS THAN (40000001), "
    "PARTITION pmax VALUES LESS THAN MAXVALUE)"
)
# Keys of heartbeats are not here: they go when their segment goes.
APPEND_ONLY = {"event": "seq", "event_key": "task_id kind hostname part", "heartbeat_event": "seq"}

INT64 = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
INT32 = sa.Integer().with_variant(sqlite.INTEGER(), "sqlite")
INT16 = sa.SmallInteger().with_variant(sqlite.INTEGER(), "sqlite")
BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    _create_heads()
    for log, keys in (("event", "event_key"), ("heartbeat_event", "heartbeat_key")):
        _create_events(log)
        _create_keys(keys)
    op.create_index("event_kind", "event", ["kind", "seq"])
    _create_follower()
    _create_lease()
    _create_credential()
    for table, keys in APPEND_ONLY.items():
        _forbid_changes(table, keys.split())


def _bytes(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def _column(name: str, type_: Any, comment: str, **options: Any) -> sa.Column[Any]:  # noqa: ANN401 - any column
    return sa.Column(name, type_, comment=comment, **{"nullable": False, **options})


def _create_heads() -> None:
    heads = op.create_table(
        "log_head",
        _column("log", _bytes(64), "the table whose head this is", primary_key=True),
        _column("seq", INT64, "the last event's seq; this row's lock serialises all appends"),
        _column("recorded_us", INT64, "the last event's time, UTC microseconds"),
        _column("tree", _bytes(2048), "Merkle tree: a hash for each set bit of seq"),
        **EXACT,
    )
    empty = {"seq": 0, "recorded_us": 0, "tree": b""}
    op.bulk_insert(heads, [{"log": b"event", **empty}, {"log": b"heartbeat_event", **empty}])


def _create_events(name: str) -> None:
    op.create_table(
        name,
        _column("seq", INT64, "gapless, in commit order, from 1", primary_key=True, autoincrement=False),
        _column("recorded_us", INT64, "UTC microseconds of the control plane, growing with seq"),
        _column("kind", _bytes(64), "what happened, as in task.accepted"),
        _column("schema_v", INT16, "version of the body's shape"),
        _column("task_id", _bytes(200), "the task it belongs to, if any", nullable=True),
        _column("hostname", _bytes(200), "the host it is about, if any", nullable=True),
        _column("actor", _bytes(200), "the person or process that caused it", nullable=True),
        _column("occurred_us", INT64, "UTC microseconds of the sender's clock, for display only", nullable=True),
        _column("body", BLOB, "the canonical bytes that were hashed and signed"),
        _column("signature", _bytes(64), "Ed25519 over the body, 64 raw bytes", nullable=True),
        _column("key_id", _bytes(64), "whose signature it is", nullable=True),
        **EXACT,
        mysql_partition_by=PARTITIONS,
    )


def _create_keys(name: str) -> None:
    op.create_table(
        name,
        _column("task_id", _bytes(200), "the task, or what else the event is about", primary_key=True),
        _column("kind", _bytes(64), "the kind, or a word that several share", primary_key=True),
        _column("hostname", _bytes(200), "the host, or nothing", primary_key=True),
        _column("part", _bytes(64), "what else tells two apart, or nothing", primary_key=True),
        _column("digest", _bytes(32), "SHA-256 that tells a repeat from a conflict"),
        _column("seq", INT64, "the event that has this key"),
        **EXACT,
        sqlite_with_rowid=False,
    )


def _create_follower() -> None:
    op.create_table(
        "follower",
        _column("name", _bytes(200), "the projection or process, with its version", primary_key=True),
        _column("event_seq", INT64, "the last event it has dealt with"),
        _column("heartbeat_seq", INT64, "the last heartbeat event it has dealt with"),
        _column("epoch", INT64, "fencing number of who may move the position"),
        _column("version", INT32, "version of the read table that is shown"),
        **EXACT,
    )


def _create_lease() -> None:
    op.create_table(
        "lease",
        _column("name", _bytes(200), "what only one process at a time does", primary_key=True),
        _column("owner", _bytes(200), "who does it"),
        _column("epoch", INT64, "fencing number, grows with each new owner"),
        _column("until_us", INT64, "end of the lease, UTC microseconds of the database's clock"),
        **EXACT,
    )


def _create_credential() -> None:
    op.create_table(
        "credential",
        _column("username", _bytes(200), "the login", primary_key=True),
        _column("phc", _bytes(255), "argon2id hash of the password, in PHC form"),
        _column("changed_us", INT64, "UTC microseconds of the last change"),
        **EXACT,
    )


def _forbid_changes(table: str, keys: list[str]) -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in sqlite_storage.append_only(table, keys) if is_sqlite else mysql_storage.append_only(table):
        op.execute(statement)
