"""Who keeps up the logs: a server that may, by itself."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from control_plane import bootstrap
from control_plane.core import open_core, prepare
from control_plane.projections.hosts import HostsProjection
from control_plane.settings import load
from control_plane.storage import signing_key
from control_plane.storage.tables import SEGMENT_ROWS, follower, heartbeat_event
from tests.support.database import migrated, sqlite_url
from tests.support.history import a_heartbeat

BOUND_S = 20


async def test_a_server_on_a_database_without_accounts_keeps_up_its_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SEGMENT_ROWS, "heartbeat_event", 10)  # type: ignore[arg-type] # a dict all the same
    signing_key.KeyStore(tmp_path).create()
    settings = load(database_url=SecretStr(sqlite_url(tmp_path)), state_dir=tmp_path, heartbeat_days=1e-9)
    async with migrated(sqlite_url(tmp_path)):
        pass
    async with open_core(settings) as core:
        await core.log.append([a_heartbeat("web1", n).to_new_event() for n in range(1, 26)])
        async with core.database.write() as connection:
            row = {"name": "hosts", "event_seq": 0, "heartbeat_seq": 25, "epoch": 1, "version": HostsProjection.version}
            await connection.execute(follower.insert().values(**row))
        await prepare(core)
        [service] = bootstrap._upkeep(core)
        stop = asyncio.Event()

        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(service.run(stop))
            first = 1
            while first < 21:
                async with core.database.read() as connection:
                    first = await connection.scalar(select(heartbeat_event.c.seq).limit(1)) or 0
            stop.set()

    assert len(await asyncio.to_thread(lambda: list((tmp_path / "archive").iterdir()))) == 2


@pytest.mark.parametrize(("admin_url", "names"), [(None, []), (SecretStr("mysql+aiomysql://x@y/z"), ["upkeep"])])
def test_where_there_are_accounts_it_takes_an_administrators(admin_url: SecretStr | None, names: list[str]) -> None:
    dialect = SimpleNamespace(needs_administrator=True)
    core: Any = SimpleNamespace(
        settings=SimpleNamespace(admin_database_url=admin_url), database=SimpleNamespace(dialect=dialect)
    )

    assert [service.name for service in bootstrap._upkeep(core)] == names
