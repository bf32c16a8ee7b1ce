"""Broker and database killed, frozen, restarted, full; the lines between them and us broken: all under running load.

Each test breaks one thing after another, with nothing between but the time that it takes to heal, and then looks at the
whole history.
"""

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.faults.ledger import Beside
from tests.support.faults.mix import (
    Fault,
    LinkName,
    Rig,
    alarm_broker,
    close_connections,
    freeze_broker,
    freeze_database,
    kill_broker,
    kill_database,
    start_what_has_ended,
)
from tests.support.faults.report import SESSION
from tests.support.faults.trial import Trial
from tests.support.link import Link, links_to
from tests.support.programs import Installation
from tests.support.servers import PrivateBroker, PrivateDatabase

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq, pytest.mark.campaign]

HOSTS = ("web1", "web2")
WEB = {"group": "web"}
EVERY_S = 0.3
FROZEN_S = 30.0
BROKEN_S = 15.0


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PrivateDatabase, PrivateBroker]]:
    with contextlib.ExitStack() as stack:
        try:
            database = PrivateDatabase()
            stack.callback(database.close)
            broker = PrivateBroker()
            stack.callback(broker.close)
        except FileNotFoundError as missing:
            pytest.skip(f"{missing} is not installed: run scripts/test as root on Debian")
        yield database, broker


@pytest.fixture
def rig(servers: tuple[PrivateDatabase, PrivateBroker], tmp_path: Path) -> Iterator[Rig]:
    database, broker = servers
    with contextlib.ExitStack() as stack:
        database_url = stack.enter_context(database.server.database())
        amqp_url = stack.enter_context(broker.broker.virtual_host())
        agents, server, store = stack.enter_context(links_to([amqp_url, amqp_url, database_url]))
        given = {"CONTROL_PLANE_AGENTS_AMQP_URL": agents.url}
        installation = Installation(tmp_path / "cp", store.url, server.url, extra=given)
        stack.callback(installation.close)
        api = installation.initialise()
        for hostname in HOSTS:
            installation.add_agent(hostname, "web")
        api.online(HOSTS)
        trial = Trial(tmp_path / "observed", installation, admin_amqp_url=amqp_url)
        stack.callback(trial.close)
        trial.before = trial.things()
        links = {"agents to broker": agents, "server to broker": server, "server to database": store}
        yield Rig(trial, broker, database, links)  # type: ignore[arg-type]


def loaded(rig: Rig) -> Iterator[str]:
    """Tasks, one after the other, each until its answer is known."""
    for number in range(100_000):
        task_id = f"load-{number}"
        rig.trial.submit(task_id, WEB)
        yield task_id


def undergo(rig: Rig, faults: Sequence[tuple[Fault, float]]) -> None:
    """Each fault under load, and then the time until all is well."""
    load, chance = loaded(rig), random.Random(0)
    for fault, lasts_s in faults:
        with Beside(lambda: next(load), pause_s=EVERY_S), Beside(rig.trial.poll, pause_s=0.5):
            time.sleep(1)
            with fault(rig, chance):
                time.sleep(lasts_s)
            since = time.monotonic()
        start_what_has_ended(rig)
        name = getattr(fault, "__name__", "").replace("_", " ")
        SESSION.faults[name] += 1
        print(f"{name}, {lasts_s:g} s: healed after {rig.trial.healed(since):.1f} s")
    assert not [what for what in rig.done if "ended by itself" in what]
    rig.trial.assert_sound()


def test_a_broker_that_is_killed_frozen_closed_and_full(rig: Rig) -> None:
    undergo(
        rig,
        [
            (kill_broker, 3),
            (freeze_broker, FROZEN_S),
            (close_connections, 1),
            (alarm_broker, BROKEN_S),
            (kill_broker, 10),
        ],
    )


def test_a_database_that_is_killed_and_frozen_is_told_as_unavailable(rig: Rig) -> None:
    undergo(rig, [(kill_database, 1), (freeze_database, FROZEN_S), (kill_database, 5)])


def test_while_the_database_hangs_the_api_answers_503_in_time(rig: Rig) -> None:
    with freeze_database(rig, random.Random(0)):
        began = time.monotonic()
        answer = rig.trial.api.http.post("/tasks", json={"task_id": "t1", **rig.trial.body(WEB)}, timeout=30)
        took_s = time.monotonic() - began

    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    print(f"503 after {took_s:.1f} s")
    since = time.monotonic()
    rig.trial.submit("t1", WEB)
    rig.trial.healed(since)
    rig.trial.assert_sound()


def broken(name: LinkName, what: str) -> Fault:
    hows = {
        "reset": Link.reset,
        "refused": Link.refuse,
        "half open, nothing goes out": lambda link: link.freeze("up"),
        "half open, nothing comes back": lambda link: link.freeze("down"),
        "slow, in pieces": lambda link: link.slow(0.1, piece=500),
        "cut in the middle": lambda link: link.cut_after(700, "down"),
    }

    @contextlib.contextmanager
    def breaks(rig: Rig, _chance: random.Random) -> Iterator[None]:
        rig.links[name].do(hows[what])  # type: ignore[arg-type]
        try:
            yield
        finally:
            rig.links[name].do(Link.heal)

    breaks.__name__ = f"{name} {what}"
    return breaks


@pytest.mark.parametrize("name", ["agents to broker", "server to broker", "server to database"])
def test_a_line_that_is_reset_half_open_slow_or_cut(rig: Rig, name: LinkName) -> None:
    undergo(
        rig,
        [
            (broken(name, "reset"), 1),
            (broken(name, "cut in the middle"), 2),
            (broken(name, "slow, in pieces"), 5),
            (broken(name, "refused"), 5),
            (broken(name, "half open, nothing goes out"), BROKEN_S),
            (broken(name, "half open, nothing comes back"), BROKEN_S),
        ],
    )
