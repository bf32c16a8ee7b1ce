"""A machine that went back in time: it is marked, nobody wonders why its commands wait, and it is trusted again."""

import re
import subprocess
import sys

import pytest
from playwright.sync_api import Page, expect

from tests.support.servers import wait_until
from tests.ui.conftest import Dev
from tests.ui.steps import at_fleet, heading

pytestmark = pytest.mark.browser

HOST = "sim-0003"

# What presence records; in a process of its own, since no event loop can run beside the browser's.
FOUND = """
import asyncio, sys
from pathlib import Path
from control_plane.core import open_core
from control_plane.events.hosts import HostQuarantined
from control_plane.settings import load
from control_plane_wire.signing import key_id

async def main(state, hostname):
    url = f"sqlite+aiosqlite:///{state}/control-plane.db"
    async with open_core(load(database_url=url, state_dir=Path(state))) as core:
        found = HostQuarantined(
            hostname=hostname,
            heartbeat_seq=1,
            key_id=key_id(core.authority.fleet.host(hostname).public_key),
            reason="its journal went back in time",
            before="1790000000",
            after="1780000000",
        )
        await core.handling.record(found, actor="presence")

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_host_in_quarantine_is_marked_and_trusted_again_with_a_reason(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    subprocess.run([sys.executable, "-c", FOUND, str(dev.state), HOST], check=True, timeout=60)
    row = page.get_by_role("row").filter(has_text=HOST)
    expect(row.get_by_text("quarantine", exact=True)).to_be_visible()

    page.goto(f"{dev.url}/run?host={HOST}&command=true")
    expect(page.get_by_role("alert").filter(has_text="1 host is in quarantine and is sent nothing")).to_be_visible()
    task_id = dev.api.run({"host": HOST}, "true")

    page.goto(f"{dev.url}/hosts/{HOST}")
    heading(page, HOST)
    expect(page.get_by_text("In quarantine: no commands go to this host")).to_be_visible()
    expect(page.get_by_text(re.compile("its journal went back in time"))).to_be_visible()
    expect(page.get_by_role("heading", name="Details")).to_be_visible()
    page.get_by_role("button", name="Trust this machine again").click()
    dialog = page.get_by_role("dialog")
    trust = dialog.get_by_role("button", name="Trust this machine again")
    expect(trust).to_be_disabled()
    dialog.get_by_label(re.compile("Why")).fill("restored on purpose")
    trust.click()

    expect(page.get_by_text("In quarantine: no commands go to this host")).to_be_hidden()
    assert dev.api.finished(task_id)[HOST]["state"] == "succeeded"
    wait_until(lambda: dev.api.get(f"/hosts/{HOST}")["quarantine"] is None, timeout_s=10, what="it is trusted again")
    page.goto(f"{dev.url}/hosts")
    expect(page.get_by_role("row").filter(has_text=HOST).get_by_text("quarantine", exact=True)).to_have_count(0)
