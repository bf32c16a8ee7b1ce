"""How commands come to their hosts when the broker, a queue or the database is in the way: each state."""

import signal
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.link import Link, LinkBeside
from tests.support.programs import Installation, Program
from tests.support.servers import PrivateBroker, PrivateDatabase, wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq, pytest.mark.campaign]

ROOM = 3  # messages in an agent's queue, beside those that it holds unacknowledged
PREFETCH = 16
RETURN_WITHIN_S = 2.0
NOT_BY_A_RETRY_S = 25.0  # dispatch sends what is not answered once more after 30 s, whatever happens

# The agent, which takes nothing out of its queue until there is a file.
TAKES_NOTHING = """
import asyncio, pathlib, sys
from control_plane_agent.cli import main
from control_plane_agent.session import Agent
take_all, goes_on = Agent._take_all, pathlib.Path(sys.argv.pop(1))
async def take_all_later(agent, session, queue):
    while not goes_on.exists():
        await asyncio.sleep(0.05)
    await take_all(agent, session, queue)
Agent._take_all = take_all_later
sys.exit(main(["run"]))
"""


@pytest.fixture(scope="module")
def own_broker() -> Iterator[PrivateBroker]:
    try:
        made = PrivateBroker()
    except FileNotFoundError:
        pytest.skip("RabbitMQ is not installed")
    yield made
    made.close()


@pytest.fixture(scope="module")
def own_database() -> Iterator[PrivateDatabase]:
    try:
        made = PrivateDatabase()
    except FileNotFoundError:
        pytest.skip("MariaDB is not installed")
    yield made
    made.close()


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, own_database: PrivateDatabase, own_broker: PrivateBroker
) -> Iterator[Installation]:
    with own_database.server.database() as url:
        made = Installation(tmp_path_factory.mktemp("delivery") / "cp", url, own_broker.broker.amqp_url)
        made.initialise()
        made.add_agent("web1")
        made.api.online(["web1"])
        yield made
        made.close()


@pytest.fixture
def agent(installation: Installation) -> Program:
    agent = installation.agents["web1"]
    if agent.has_ended():
        agent.start()
    installation.api.online(["web1"])
    return agent


def ask(witness: Path) -> str:
    return f"echo $CONTROL_PLANE_TASK_ID >> {witness}"


def kinds(installation: Installation, task_id: str) -> list[str]:
    """What was recorded of a task, the oldest first."""
    rows = installation.api.get("/events", task_id=task_id, limit=100)["items"]
    return [row["kind"] for row in reversed(rows)]


def test_an_offline_host_gets_its_commands_in_the_order_of_their_acceptance(
    installation: Installation, agent: Program, tmp_path: Path
) -> None:
    api, witness = installation.api, tmp_path / "witness"
    agent.stop()
    line = f"flock {witness}.lock -c '{ask(witness)}'"
    asked = [api.run({"host": "web1"}, line) for _ in range(5)]
    assert {api.executions(task_id)["web1"]["state"] for task_id in asked} == {"queued"}
    wait_until(
        lambda: all("execution.returned" in kinds(installation, task_id) for task_id in asked),
        timeout_s=30,
        what="it is known that none has reached its host",
    )

    agent.start()
    for task_id in asked:
        assert api.finished(task_id)["web1"]["state"] == "succeeded"

    sent = api.get("/events", hostname="web1", kind="execution.sent", limit=100)["items"]
    assert [row["task_id"] for row in reversed(sent)][-5:] == asked
    assert sorted(witness.read_text().split()) == sorted(asked)


def test_a_command_that_skips_whoever_is_offline_is_over_at_once(installation: Installation, agent: Program) -> None:
    api = installation.api
    agent.stop()
    wait_until(lambda: api.get("/hosts/web1")["state"] == "offline", timeout_s=30, what="it is offline")

    row = api.finished(api.run({"host": "web1"}, "true", when_offline="skip"))["web1"]

    assert (row["state"], row["reason"]) == ("skipped", "the host is offline")


def test_what_an_offline_host_is_not_sent_in_time_expires_and_never_runs(
    installation: Installation, agent: Program, tmp_path: Path
) -> None:
    api, witness = installation.api, tmp_path / "witness"
    agent.stop()
    task_id = api.run({"host": "web1"}, ask(witness), expires_in=1)
    expires_s = seconds(api.get(f"/tasks/{task_id}")["expires_at"])
    wait_until(lambda: datetime.now(UTC).timestamp() > expires_s, timeout_s=30, what="it has expired")
    agent.start()
    later = api.run({"host": "web1"}, "true")

    assert api.finished(later)["web1"]["state"] == "succeeded"
    assert api.executions(task_id)["web1"]["state"] == "queued", "until no clock may let it start any more"
    assert not witness.exists()


def test_what_a_full_queue_refuses_is_unknown_and_comes_when_there_is_room(
    installation: Installation, own_broker: PrivateBroker, agent: Program, tmp_path: Path
) -> None:
    api, witness = installation.api, tmp_path / "witness"
    definition = {"max-length": ROOM, "overflow": "reject-publish"}
    policy = {"pattern": "^cmd\\.node\\.", "definition": definition, "apply-to": "queues"}
    own_broker.broker.call("PUT", "/api/policies/%2F/agents", policy)
    try:
        agent.signal(signal.SIGSTOP)
        asked = [api.run({"host": "web1"}, ask(witness)) for _ in range(PREFETCH + 2 * ROOM)]
        wait_until(
            lambda: any("execution.unconfirmed" in kinds(installation, task_id) for task_id in asked),
            timeout_s=60,
            what="the queue refuses some",
        )
        refused = [task_id for task_id in asked if "execution.unconfirmed" in kinds(installation, task_id)]
        assert {api.executions(task_id)["web1"]["state"] for task_id in refused} <= {"queued"}
        agent.signal(signal.SIGCONT)
        states = {api.finished(task_id, timeout_s=90)["web1"]["state"] for task_id in asked}
    finally:
        agent.signal(signal.SIGCONT)
        own_broker.broker.call("DELETE", "/api/policies/%2F/agents")

    assert states == {"succeeded"}
    assert sorted(witness.read_text().split()) == sorted(asked)


@pytest.mark.parametrize("how", ["killed", "purged", "connections closed"])
def test_what_is_accepted_while_the_broker_is_away_or_loses_it_is_delivered_once(
    installation: Installation, own_broker: PrivateBroker, agent: Program, tmp_path: Path, how: str
) -> None:
    api, witness = installation.api, tmp_path / "witness"
    running = api.run({"host": "web1"}, f"{ask(witness)}; sleep 2")
    if how == "killed":
        own_broker.kill()
        meanwhile = api.run({"host": "web1"}, ask(witness))
        assert api.executions(meanwhile)["web1"]["state"] == "queued"
        own_broker.start()
    elif how == "purged":
        agent.signal(signal.SIGSTOP)
        meanwhile = api.run({"host": "web1"}, ask(witness))
        wait_until(lambda: "execution.sent" in kinds(installation, meanwhile), timeout_s=30, what="it is in the queue")
        own_broker.control("close_all_connections", "a test")
        agent.signal(signal.SIGCONT)
    else:
        own_broker.control("close_all_connections", "a test")
        meanwhile = api.run({"host": "web1"}, ask(witness))

    for task_id in (running, meanwhile):
        assert api.finished(task_id, timeout_s=120)["web1"]["state"] == "succeeded"
    assert sorted(witness.read_text().split()) == sorted([running, meanwhile])
    wait_until(lambda: api.get("/hosts/web1")["state"] == "online", timeout_s=60, what="it is online")


def test_an_agent_that_loses_its_queue_twice_between_two_heartbeats_is_sent_its_command_again_each_time(
    installation: Installation, own_broker: PrivateBroker, tmp_path: Path
) -> None:
    api, witness, goes_on = installation.api, tmp_path / "witness", tmp_path / "goes-on"
    agent = installation.add_agent("queueless", start=False)
    agent.argv = [agent.argv[0].replace("control-plane-agent", "python"), "-c", TAKES_NOTHING, str(goes_on)]
    with LinkBeside(Link(own_broker.broker.amqp_url)).open() as cable:
        agent.start(CONTROL_PLANE_AGENT_AMQP_URL=cable.url)
        try:
            api.online(["queueless"])
            task_id = api.run({"host": "queueless"}, ask(witness))
            for times in (1, 2):
                wait_until(lambda: has_one(own_broker), timeout_s=NOT_BY_A_RETRY_S, what="it is in the queue")
                cable.do(Link.cut)
                wait_until(
                    lambda times=times: went_online(installation, "queueless") == 1 + times,
                    timeout_s=NOT_BY_A_RETRY_S,
                    what="its agent is there anew, and the queue is another",
                )
            wait_until(lambda: has_one(own_broker), timeout_s=NOT_BY_A_RETRY_S, what="it is there again")
            goes_on.touch()

            assert api.finished(task_id)["queueless"]["state"] == "succeeded"
        finally:
            agent.kill()

    assert witness.read_text().split() == [task_id]
    assert set(kinds(installation, task_id)).isdisjoint({"execution.returned", "execution.unconfirmed"})


def went_online(installation: Installation, hostname: str) -> int:
    return len(installation.api.get("/events", hostname=hostname, kind="host.went_online", limit=100)["items"])


def has_one(broker: PrivateBroker) -> bool:
    """Whether a message waits in that queue, as the broker counts them every few seconds."""
    found = broker.broker.call("GET", "/api/queues")
    assert isinstance(found, list)
    return any(queue["name"] == "cmd.node.queueless" and queue.get("messages") for queue in found)


def test_what_a_host_answers_while_the_database_is_away_is_recorded_once(
    installation: Installation, own_database: PrivateDatabase, agent: Program, tmp_path: Path
) -> None:
    api, witness, goes_on = installation.api, tmp_path / "witness", tmp_path / "goes-on"
    wait = f"until [ -e {goes_on} ]; do sleep 0.05; done"
    task_id = api.run({"host": "web1"}, f"{ask(witness)}; {wait}; echo done")
    wait_until(witness.exists, timeout_s=30, what="it runs")
    own_database.process.kill()
    own_database.process.wait()
    refused = api.http.post("/tasks", json={"target": {"host": "web1"}, "command": "x", "timeout": 9, "user": "root"})
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    goes_on.touch()
    own_database.start()

    row = api.finished(task_id, timeout_s=90)["web1"]

    assert (row["state"], row["exit_code"]) == ("succeeded", 0)
    wait_until(lambda: "execution.finished" in kinds(installation, task_id), timeout_s=30, what="it is in the audit")
    assert kinds(installation, task_id).count("execution.finished") == 1
    assert witness.read_text().split() == [task_id]
    wait_until(lambda: api.get("/hosts/web1")["state"] == "online", timeout_s=60, what="it is online")


@pytest.mark.campaign
def test_a_host_that_returns_gets_its_work_soon_after_its_first_heartbeat(
    installation: Installation, agent: Program
) -> None:
    """By the times that were recorded: from the heartbeat that brought it online to its answer."""
    api, took_s = installation.api, []
    for _ in range(7):
        agent.stop()
        task_id = api.run({"host": "web1"}, "true")
        agent.start()
        api.finished(task_id)
        online = api.get("/events", hostname="web1", kind="host.went_online", limit=1)["items"][0]
        heard = [beat["at"] for beat in api.get("/hosts/web1/heartbeats", points=1000)["items"]]
        first = max(at for at in heard if at <= online["recorded_at"])
        wait_until(
            lambda task_id=task_id: "execution.finished" in kinds(installation, task_id),
            timeout_s=30,
            what="it is over",
        )
        [done] = api.get("/events", task_id=task_id, kind="execution.finished", limit=1)["items"]
        took_s.append(seconds(done["recorded_at"]) - seconds(first))
    print(f"from the first heartbeat to the result, s: {sorted(round(each, 3) for each in took_s)}")

    assert statistics.median(took_s) < RETURN_WITHIN_S


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
