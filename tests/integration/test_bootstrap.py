"""From settings to a running application."""

from pathlib import Path
from typing import Any

from control_plane.administration import initialise
from control_plane.bootstrap import open_core, prepare, services_of_api
from control_plane.commands.access import CONSOLE
from control_plane.commands.targets import Group
from control_plane.observability import Metrics
from control_plane.settings import Settings
from tests.support.database import sqlite_url
from tests.support.fleet import PASSWORD, host_key


def settings_of(directory: Path, **given: Any) -> Settings:
    return Settings(database_url=sqlite_url(directory), state_dir=directory, **given)


async def test_where_a_task_has_to_be_confirmed_is_a_setting(tmp_path: Path) -> None:
    await initialise(settings_of(tmp_path), "root", PASSWORD)

    levels = {}
    for many, fraction in ((2, 0.5), (1, 0.5), (1, 1.0)):
        settings = settings_of(tmp_path, guard_many_hosts=many, guard_fleet_fraction=fraction)
        async with open_core(settings) as core:
            await prepare(core)
            services = services_of_api(core, Metrics())
            for name in ("web1", "web2"):
                key = host_key(name).public_key
                await services.hosts.register(CONSOLE, hostname=name, public_key=key, groups=["web"])
            preview = await services.tasks.preview(CONSOLE, Group("web"), "id")
            levels[many, fraction] = preview.guard.level

    assert levels == {(2, 0.5): 1, (1, 0.5): 3, (1, 1.0): 2}
