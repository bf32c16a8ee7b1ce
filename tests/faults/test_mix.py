"""200 commands on 20 agents while everything is killed, frozen and cut at random; then all is well within a minute."""

import contextlib
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.faults.ledger import Beside
from tests.support.faults.mix import (
    FAULTS,
    Rig,
    break_something,
    kill_agents,
    kill_broker,
    kill_database,
    kill_server,
    start_what_has_ended,
)
from tests.support.faults.report import SESSION
from tests.support.faults.trial import Trial
from tests.support.link import LinkBeside, links_to
from tests.support.programs import Installation
from tests.support.servers import PrivateBroker, PrivateDatabase

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq, pytest.mark.campaign]

SEED = "CONTROL_PLANE_FAULT_SEED"
COMMANDS = 200
AGENTS = 20
GROUPS = 4
LOAD_S = 120


@pytest.fixture
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
        amqp_url = broker.broker.amqp_url
        agents, server, store = stack.enter_context(links_to([amqp_url, amqp_url, database_url]))
        installation = Installation(
            tmp_path / "cp",
            store.url,
            server.url,
            extra={"CONTROL_PLANE_AGENTS_AMQP_URL": agents.url},
        )
        stack.callback(installation.close)
        api = installation.initialise()
        names = [f"web{number}" for number in range(1, AGENTS + 1)]
        with ThreadPoolExecutor(4) as pool:
            for number, name in enumerate(names):
                pool.submit(installation.add_agent, name, f"g{number % GROUPS}")
        assert sorted(installation.agents) == sorted(names)
        api.online(names, timeout_s=90)
        trial = Trial(tmp_path / "observed", installation, admin_amqp_url=amqp_url)
        stack.callback(trial.close)
        trial.before = trial.things()
        links: dict[str, LinkBeside] = {
            "agents to broker": agents,
            "server to broker": server,
            "server to database": store,
        }
        yield Rig(trial, broker, database, links)  # type: ignore[arg-type]


class Load:
    """Asks for one task after another, most of them until the answer is known."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self._rig = rig
        self._chance = random.Random(f"{seed} load")
        self.number = 0

    def ask(self) -> None:
        if self.number == COMMANDS:
            return
        chance, trial, task_id = self._chance, self._rig.trial, f"mix-{self.number}"
        self.number += 1
        kind = chance.random()
        if kind < 0.7:
            target: dict[str, object] = {"hosts": chance.sample(self._rig.agents, chance.randint(1, 3))}
        else:
            target = {"group": f"g{chance.randrange(GROUPS)}"} if kind < 0.95 else {"all": True}
        body = trial.body(target, seconds=chance.choice((0, 0, 0.5, 2)))
        if chance.random() < 0.05:
            body["target"] = {"hosts": ["nobody"]}
        trial.sent[task_id] = body
        if chance.random() < 0.1:
            trial.client.ask(task_id, body)  # once, whatever comes of it
        else:
            trial.client.submit(task_id, body, timeout_s=180)
        if chance.random() < 0.1:
            trial.client.repeat(task_id, body)
        if chance.random() < 0.05:
            trial.ask_for_what_is_denied()
        if chance.random() < 0.05:
            trial.forge(chance.choice(self._rig.agents))
        time.sleep(chance.uniform(0, 2 * LOAD_S / COMMANDS * 0.7))


def test_nothing_is_lost_and_nothing_runs_twice_whatever_breaks(rig: Rig) -> None:
    seed = int(os.environ.get(SEED) or random.SystemRandom().randrange(2**32))
    print(f"{SEED}={seed}")
    SESSION.seeds.append(seed)
    chance, load = random.Random(f"{seed} faults"), Load(rig, seed)

    with Beside(rig.trial.poll, pause_s=0.5), Beside(load.ask, pause_s=0.01):
        while load.number < COMMANDS:
            break_something(rig, chance)
            time.sleep(chance.uniform(0.5, 3))
        with contextlib.ExitStack() as stack:  # in the end all at once, while the last commands are under way
            for fault in (kill_agents, kill_server, kill_broker, kill_database):
                stack.enter_context(fault(rig, chance))
            time.sleep(1)
            healed_s = time.monotonic()
        start_what_has_ended(rig)
    SESSION.faults.update(rig.done)
    print("faults:", ", ".join(rig.done))

    took_s = rig.trial.healed(healed_s)
    print(f"healed after {took_s:.1f} s")
    rig.trial.assert_sound(waited_s=took_s)


def test_the_same_seed_gives_the_same_faults() -> None:
    def schedule(seed: int) -> list[object]:
        chance = random.Random(f"{seed} faults")
        return [chance.choice(FAULTS) for _ in range(50)]

    assert schedule(1) == schedule(1) != schedule(2)
