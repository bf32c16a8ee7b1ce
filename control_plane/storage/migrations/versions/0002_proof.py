"""What proofs are made of: the hashes of the logs' trees in tiles, and the signed checkpoints."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, sqlite

from control_plane.storage import mysql as mysql_storage
from control_plane.storage import sqlite as sqlite_storage

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

EXACT: dict[str, Any] = {
    "sqlite_strict": True,
    "mysql_engine": "InnoDB",
    "mysql_default_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
INT64 = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "log_tile",
        _column("log", _bytes(64), "the log whose tree it is a part of", primary_key=True),
        _column("idx", INT64, "which 256 events; 0: those from 1 to 256", primary_key=True, autoincrement=False),
        _column("leaves", _bytes(8192), "their 256 leaf hashes"),
        _column("nodes", _bytes(2048), "hashes of the subtrees that end here, 256 events upwards"),
        **EXACT,
    )
    op.create_table(
        "checkpoint",
        _column("log", _bytes(64), "the log whose tree was signed", primary_key=True),
        _column("size", INT64, "how many events the tree is over", primary_key=True, autoincrement=False),
        _column("recorded_us", INT64, "UTC microseconds at which it was signed"),
        _column("note", _bytes(1024), "the signed note, as C2SP's tlog-checkpoint"),
        **EXACT,
    )
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, keys in (("log_tile", ["log", "idx"]), ("checkpoint", ["log", "size"])):
        for statement in sqlite_storage.append_only(table, keys) if is_sqlite else mysql_storage.append_only(table):
            op.execute(statement)


def _bytes(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def _column(name: str, type_: Any, comment: str, **options: Any) -> sa.Column[Any]:  # noqa: ANN401 - any column
    return sa.Column(name, type_, comment=comment, **{"nullable": False, **options})
