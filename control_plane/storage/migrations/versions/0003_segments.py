"""What is known of dropped segments, the heartbeats that outlive theirs, and smaller segments of heartbeats."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, sqlite

from control_plane.storage import sqlite as sqlite_storage

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

EXACT: dict[str, Any] = {
    "sqlite_strict": True,
    "mysql_engine": "InnoDB",
    "mysql_default_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
OLD_ROWS, ROWS, PLANNED = 10_000_000, 1_000_000, 4

INT64 = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
INT16 = sa.SmallInteger().with_variant(sqlite.INTEGER(), "sqlite")
BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    _create_segments()
    _create_kept()
    if op.get_bind().dialect.name == "sqlite":
        for statement in sqlite_storage.droppable("heartbeat_event"):
            op.execute(statement)
    else:
        _plan_smaller_segments()


def _bytes(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def _column(name: str, type_: Any, comment: str, **options: Any) -> sa.Column[Any]:  # noqa: ANN401 - any column
    return sa.Column(name, type_, comment=comment, **{"nullable": False, **options})


def _create_segments() -> None:
    op.create_table(
        "log_segment",
        _column("log", _bytes(64), "the table whose rows these were", primary_key=True),
        _column("last_seq", INT64, "the last event of the segment", primary_key=True, autoincrement=False),
        _column("first_seq", INT64, "the first event of the segment"),
        _column("last_us", INT64, "the time of the last event, UTC microseconds"),
        _column("root", _bytes(32), "Merkle root over the leaves of this segment alone"),
        _column("tree", _bytes(2048), "Merkle tree of the whole log at the segment's end"),
        _column("archive", _bytes(255), "name of the file that has its events"),
        _column("archive_sha256", _bytes(32), "digest of that file"),
        _column("dropped_us", INT64, "since when its rows may be gone, UTC microseconds"),
        **EXACT,
    )


def _create_kept() -> None:
    op.create_table(
        "heartbeat_kept",
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
    )


def _plan_smaller_segments() -> None:
    """From the first partition on that is still empty; to make those with rows smaller would copy them."""
    heads = op.get_bind().exec_driver_sql("SELECT seq FROM log_head WHERE log = 'heartbeat_event'")
    filled = -(-int(heads.scalar() or 0) // OLD_ROWS)
    if filled >= PLANNED:
        return
    start = filled * OLD_ROWS // ROWS
    old = [f"p{n}" for n in range(filled + 1, PLANNED + 1)]
    new = [f"PARTITION p{n} VALUES LESS THAN ({n * ROWS + 1})" for n in range(start + 1, start + PLANNED + 1)]
    op.execute(
        f"ALTER TABLE heartbeat_event REORGANIZE PARTITION {', '.join(old)}, pmax INTO "
        f"({', '.join(new)}, PARTITION pmax VALUES LESS THAN MAXVALUE)"
    )
