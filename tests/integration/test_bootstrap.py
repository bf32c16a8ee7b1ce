"""From settings to a running application."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_plane.administration import initialise
from control_plane.api.server import bound
from control_plane.bootstrap import ROLES, provider_of, services_of, services_of_api
from control_plane.commands.access import CONSOLE
from control_plane.commands.handlers.stop import StopHandler
from control_plane.commands.targets import Group
from control_plane.core import open_core, open_leases, prepare
from control_plane.errors import ConfigurationError, NotSignedInError
from control_plane.events.passkeys import PasskeyAdded
from control_plane.observability import Metrics
from control_plane.projections.rebuilder import Rebuilder
from control_plane.settings import Settings
from control_plane_wire.clock import SystemClock
from control_plane_wire.lifecycle import run_until_stopped
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.database import sqlite_url
from tests.support.events import SHA
from tests.support.fleet import PASSWORD, host_key
from tests.support.programs import run


def settings_of(directory: Path, **given: Any) -> Settings:
    return Settings(database_url=sqlite_url(directory), state_dir=directory, **given)


async def test_where_a_task_has_to_be_confirmed_is_a_setting(tmp_path: Path) -> None:
    await initialise(settings_of(tmp_path), "root", PASSWORD)

    levels = {}
    for many, fraction in ((2, 0.5), (1, 0.5), (1, 1.0)):
        settings = settings_of(tmp_path, guard_many_hosts=many, guard_fleet_fraction=fraction)
        async with open_core(settings) as core:
            await prepare(core)
            services = services_of_api(core, Metrics(), Rebuilder(core.database, core.log, core.clock))
            for name in ("web1", "web2"):
                key = host_key(name).public_key
                await services.hosts.register(CONSOLE, hostname=name, public_key=key, groups=["web"])
            preview = await services.tasks.preview(CONSOLE, Group("web"), "id")
            levels[many, fraction] = preview.guard.level

    assert levels == {(2, 0.5): 1, (1, 0.5): 3, (1, 1.0): 2}


async def test_the_smallest_pool_that_is_taken_is_enough(tmp_path: Path) -> None:
    await initialise(settings_of(tmp_path), "root", PASSWORD)
    settings = settings_of(tmp_path, database_pool_size=4, listen="127.0.0.1:0")
    stop = asyncio.Event()

    with bound(settings) as (settings, listener):
        async with open_core(settings) as core, open_leases(core) as leases:
            await prepare(core)
            transport = InProcessBroker().transport()
            services = services_of(core, transport, leases, roles=ROLES, listener=listener)
            async with asyncio.timeout(30), asyncio.TaskGroup() as group, httpx.AsyncClient() as client:
                group.create_task(run_until_stopped(services, stop=stop, drain_s=10))
                while not await _is_ready(client, settings.url):
                    await asyncio.sleep(0)
                while {state.state for state in await core.projection_queries.states()} != {"live"}:
                    await asyncio.sleep(0)
                await StopHandler(core.handling).set(CONSOLE, "a test")
                token = (await core.tokens.create(CONSOLE, username="root", name="a test", days=1)).text
                headers = {"authorization": f"Bearer {token}"}
                warned = (await client.get(f"{settings.url}/readyz", headers=headers)).json()
                stop.set()

    assert warned["status"] == "ready"
    [check] = [check for check in warned["checks"] if check["state"] != "ok"]
    assert (check["name"], check["state"]) == ("stop", "warning")
    assert check["detail"] == "nothing is accepted or sent until the stop is lifted"


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    """Whether it is, and says so to many at once."""
    try:
        answers = await asyncio.gather(*(client.get(f"{url}/readyz") for _ in range(20)))
    except httpx.HTTPError:
        return False
    return all(answer.status_code == 200 for answer in answers)


async def test_the_command_line_removes_the_passkeys_of_who_has_lost_them(tmp_path: Path) -> None:
    await initialise(settings_of(tmp_path), "root", PASSWORD)
    added = PasskeyAdded(
        passkey_id=SHA, username="root", name="x", credential_id="AA", public_key="AA==", sign_count=0, added_at=1
    )
    async with open_core(settings_of(tmp_path)) as core:
        await core.handling.record_new(added, actor="root")
        with pytest.raises(NotSignedInError) as refused:
            await core.access.login("root", PASSWORD, address=None)
        assert refused.value.code == "passkeys_off"  # by an address

    environment = {"CONTROL_PLANE_DATABASE_URL": sqlite_url(tmp_path), "CONTROL_PLANE_STATE_DIR": str(tmp_path)}
    run(["control-plane", "users", "remove-passkeys", "root"], environment=environment, cwd=tmp_path)

    async with open_core(settings_of(tmp_path)) as core:
        assert (await core.access.login("root", PASSWORD, address=None)).principal.username == "root"


@pytest.mark.parametrize("file", ["not there", "no certificate"])
def test_an_authority_of_the_identity_provider_that_is_of_no_use_is_told(tmp_path: Path, file: str) -> None:
    (tmp_path / "no certificate").write_text("x")
    given = {"oidc_issuer": "https://sso.example.com", "oidc_client_id": "x", "oidc_ca_file": tmp_path / file}

    with pytest.raises(ConfigurationError, match="CONTROL_PLANE_OIDC_CA_FILE"):
        provider_of(settings_of(tmp_path, **given), SystemClock(), Metrics().happenings())
