"""The application's account can add to the log and read it, and do its whole work, and no more."""

import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pymysql
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from control_plane.administration import migrate
from control_plane.events import tasks
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.rebuild import rebuild
from control_plane.settings import Settings, load
from control_plane.storage.dialect import Account
from control_plane.storage.mysql import MysqlDialect
from control_plane.storage.tables import RIGHTS, metadata
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.plane import a_plane, a_result, of_host
from tests.support.servers import DatabaseServer

ROOT = Path(__file__).parents[2]


def test_the_rights_of_the_application_are_said_for_every_table() -> None:
    assert RIGHTS.keys() == {*metadata.tables, "alembic_version"}


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_a_page_that_shows_grants_shows_those_that_are_made(page: str) -> None:
    shown = [line.strip().rstrip(";") for line in (ROOT / page).read_text().splitlines() if "GRANT " in line]
    made = MysqlDialect("control_plane", "10.11.0-MariaDB").grants(Account("control_plane@'%'"))

    of_the_application = [line for line in shown if line.endswith(" TO control_plane@'%'")]
    assert of_the_application == (made if page == "docs/operations.md" else [])


@dataclass(frozen=True)
class Accounts:
    """An administrator of one database who may grant, and the application, which has nothing yet."""

    server: DatabaseServer
    settings: Settings
    url: str
    database: str
    account: str

    def run(self, *statements: str, account: str | None = None) -> None:
        """By the server's own administrator, or with the application's account."""
        user, password = (account, "x") if account else (self.server.user, self.server.password)
        connection = pymysql.connect(
            host=self.server.host, port=self.server.port, user=user, password=password, database=self.database
        )
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@pytest.fixture
def accounts(database_server: DatabaseServer, mysql_url: str, tmp_path: Path) -> Iterator[Accounts]:
    url = make_url(mysql_url)
    names = [f"{role}{uuid4().hex[:10]}" for role in ("admin", "app")]
    admin_url, app_url = (
        f"mysql+aiomysql://{name}:{urllib.parse.quote('x')}@{url.host}:{url.port}/{url.database}" for name in names
    )
    settings = load(
        database_url=SecretStr(app_url), admin_database_url=SecretStr(admin_url), state_dir=tmp_path, listen="x:1"
    )
    made = Accounts(database_server, settings, app_url, url.database or "", names[1])
    schemas = [f"{url.database}".replace("_", r"\_") + more for more in ("", r"\_read")]
    try:
        made.run(*(f"CREATE USER {name}@'%' IDENTIFIED BY 'x'" for name in names))
        made.run(*(f"GRANT ALL ON `{schema}`.* TO {names[0]}@'%' WITH GRANT OPTION" for schema in schemas))
        made.run("SET GLOBAL log_bin_trust_function_creators = 1")
        yield made
    finally:
        made.run(*(f"DROP USER {name}@'%'" for name in names))


CHANGES = [
    "UPDATE {log} SET actor = 'mallory'",
    "DELETE FROM {log}",
    "TRUNCATE TABLE {log}",
    "REPLACE INTO {log} SELECT * FROM {log}",
    "INSERT INTO {log} SELECT * FROM {log} AS old ON DUPLICATE KEY UPDATE seq = 9",
    "ALTER TABLE {log} DROP PARTITION p1",
    "ALTER TABLE {log} TRUNCATE PARTITION p1",
    "ALTER TABLE {log} REORGANIZE PARTITION p1 INTO (PARTITION p1 VALUES LESS THAN (5))",
    "DROP TABLE {log}",
    "RENAME TABLE {log} TO other",
    "DROP TRIGGER {log}_no_delete",
    "CREATE INDEX other ON {log} (actor)",
]
MORE_CHANGES = [
    "DELETE FROM event_key",
    "UPDATE event_key SET seq = 7",
    "DELETE FROM heartbeat_key",
    "INSERT INTO log_segment (log, last_seq) VALUES ('heartbeat_event', 7)",
    "DELETE FROM heartbeat_kept",
    "DELETE FROM log_tile",
    "UPDATE log_tile SET leaves = ''",
    "DELETE FROM checkpoint",
    "UPDATE checkpoint SET note = ''",
    "DELETE FROM log_head",
    "INSERT INTO log_head VALUES ('x', 1, 1, '', NULL)",
    "DELETE FROM lease",
    "CREATE TABLE other (x INT)",
    "UPDATE alembic_version SET version_num = 'x'",
]


@pytest.mark.mysql
async def test_the_server_does_its_whole_work_with_the_rights_that_migrate_gives_it_and_can_change_nothing(
    accounts: Accounts,
) -> None:
    assert await migrate(accounts.settings) == []
    assert await migrate(accounts.settings) == [], "it may be repeated"

    async with a_plane(accounts.url, InProcessBroker().transport()) as plane:
        await plane.register("web1")
        async with plane.serving(plane.results(), plane.deadlines(), plane.presence()), plane.agent("web1") as agent:
            await plane.comes_online("web1")
            async with plane.dispatching(), plane.session() as session:
                await plane.run("t1", "web1")
                await agent.received()
                await session.publish(of_host("web1", a_result("t1", "web1")))
                await plane.recorded(tasks.ExecutionFinished.KIND)
        await plane.shown()
        task = await plane.task_queries.one("t1")
        assert task is not None
        assert task.outcome == "succeeded"
        for projection in PROJECTIONS:
            for compared in await rebuild(projection, plane.database, plane.log, then="switch"):
                assert compared.is_equal

        changes = [change.format(log=log) for change in CHANGES for log in ("event", "heartbeat_event")]
        for change in [*changes, *MORE_CHANGES]:
            with pytest.raises(pymysql.err.OperationalError, match="denied") as refused:
                accounts.run(change, account=accounts.account)
            assert refused.value.args[0] in {1044, 1142, 1227, 1370}, change


@pytest.mark.mysql
async def test_a_right_too_many_is_told_with_what_takes_it_away(accounts: Accounts) -> None:
    accounts.run(f"GRANT ALL ON {accounts.database}.* TO {accounts.account}@'%'")

    told = await migrate(accounts.settings)

    assert told[0] == f"'{accounts.account}'@'%' may do more than it needs, and so change the log; run:"
    accounts.run(*told[1:])
    assert await migrate(accounts.settings) == []


@pytest.mark.mysql
async def test_an_administrator_who_may_not_grant_is_given_the_statements_for_one_who_may(accounts: Accounts) -> None:
    admin_url = accounts.settings.admin_database_url
    assert admin_url is not None
    admin = make_url(admin_url.get_secret_value()).username
    schemas = [accounts.database.replace("_", r"\_") + more for more in ("", r"\_read")]
    accounts.run(*(f"REVOKE GRANT OPTION ON `{schema}`.* FROM {admin}@'%'" for schema in schemas))

    told = await migrate(accounts.settings)

    assert told[0].startswith("this administrator may not grant")
    accounts.run(*told[1:])
    async with a_plane(accounts.url, InProcessBroker().transport()) as plane:
        await plane.register("web1")
