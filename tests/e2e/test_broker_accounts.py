"""Each agent has a broker account of its own, from enrolment to revocation, on real parts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.messaging.broker_accounts import is_account
from tests.support.programs import PASSWORD, Installation
from tests.support.servers import Broker, wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq]


@pytest.fixture
def installation(tmp_path: Path, mysql_url: str, amqp_url: str, broker: Broker) -> Iterator[Installation]:
    if broker.api_url is None:
        pytest.skip("needs CONTROL_PLANE_TEST_BROKER_API_URL")
    made = Installation(tmp_path / "cp", mysql_url, amqp_url, extra={"CONTROL_PLANE_BROKER_API_URL": broker.api_url})
    before = accounts(broker)
    yield made
    made.close()
    for user in accounts(broker) - before:
        broker.call("DELETE", f"/api/users/{user}")


def accounts(broker: Broker) -> set[str]:
    users = broker.call("GET", "/api/users")
    assert isinstance(users, list)
    return {user["name"] for user in users if is_account(user["name"])}


def test_an_account_follows_its_host_from_enrolment_over_groups_to_revocation(
    installation: Installation, broker: Broker
) -> None:
    before, api = accounts(broker), installation.initialise()
    installation.add_agent("web1", "web")
    agent = installation.add_agent("db1.example.com", "db")
    api.online(["web1", "db1.example.com"])
    mine = accounts(broker) - before

    assert len(mine) == 2
    assert {row["state"] for row in api.finished(api.run({"all": True}, "echo all")).values()} == {"succeeded"}

    # Into a group, while it is there: the right to it and the word of it are under way at once.
    api.put("/groups/canary/hosts/web1")
    wait_until(lambda: not api.get("/hosts/web1")["drift"], timeout_s=20, what="web1 has bound canary")
    assert api.finished(api.run({"group": "canary"}, "echo canary"))["web1"]["state"] == "succeeded"

    # And out of it, while it is there: it has the right for as long as it unbinds it.
    api.http.delete("/groups/canary/hosts/web1").raise_for_status()
    wait_until(lambda: api.get("/hosts/web1")["groups_bound"] == ["web"], timeout_s=20, what="web1 has unbound canary")

    # Out of one, while it is away: it has the right no more, and comes back all the same.
    agent.kill()
    api.http.delete("/groups/db/hosts/db1.example.com").raise_for_status()
    api.put("/groups/web/hosts/db1.example.com")
    agent.start()
    wait_until(
        lambda: api.get("/hosts/db1.example.com")["groups_bound"] == ["web"], timeout_s=60, what="it has been told"
    )
    done = api.finished(api.run({"group": "web"}, "echo web"))
    assert {name: row["state"] for name, row in done.items()} == {"web1": "succeeded", "db1.example.com": "succeeded"}

    api.post("/hosts/web1/revoke", {"reason": "stolen"})
    wait_until(lambda: len(accounts(broker) & mine) == 1, timeout_s=10, what="its account is deleted")
    installation.agents["web1"].kill()
    again = installation.control_plane("broker", "admit", "db1.example.com").strip()
    assert again.startswith("amqp://h-")
    typed = installation.control_plane("broker", "commands")
    assert "# db1.example.com" in typed
    assert "# web1" not in typed
    ready = {check["name"]: check["state"] for check in installation.api.http.get("/../../readyz").json()["checks"]}
    assert ready["accounts at the broker"] == "ok"


def test_enrolment_waits_for_the_management_api_and_loses_nothing(installation: Installation, broker: Broker) -> None:
    installation.control_plane("init", "--username", "admin", "--password-stdin", stdin=PASSWORD + "\n")
    installation.start(CONTROL_PLANE_BROKER_API_URL="http://guest:guest@127.0.0.1:1")  # nobody listens there
    api = installation.client()
    token = api.post("/enrolment-tokens", {"hostname": "web1"})["token"]
    with pytest.raises(AssertionError, match="the broker makes no account just now; the same request again is safe"):
        installation.enrol("web1", token)
    installation.server.stop()
    installation.start()

    installation.enrol("web1", token).start()
    api.online(["web1"])
