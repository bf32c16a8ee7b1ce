"""A MariaDB Galera cluster with one writer node: what is acknowledged survives the loss of any node, and of all.

The control plane talks to one address. There a link stands for the load balancer, and leads to the writer.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from control_plane.errors import StorageUnavailableError
from control_plane.events.envelope import EVENT
from control_plane.events.log import EventLog
from control_plane.storage.engine import open_database
from control_plane.storage.leases import Lease, Leases
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.database import an_event
from tests.support.galera import Cluster, Node
from tests.support.history import HOSTS
from tests.support.link import Link
from tests.support.load import Load, assert_sound
from tests.support.plane import Plane, a_plane, until
from tests.support.programs import Installation

pytestmark = pytest.mark.galera


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    try:
        cluster = Cluster()
    except FileNotFoundError:
        pytest.skip("galera-4 or rsync is not installed: run scripts/test as root on Debian")
    yield cluster
    cluster.close()


@dataclass
class Bed:
    """Attributes: `url`: of an empty database, by the first node; `link`: what the control plane has for it."""

    cluster: Cluster
    url: str
    link: Link

    def by(self, node: Node) -> str:
        """That database's URL by one of the nodes."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{node.server.port}").geturl()

    @property
    def replicas(self) -> list[str]:
        return [self.by(node) for node in self.cluster.nodes]

    async def heal(self) -> None:
        await asyncio.to_thread(self.cluster.heal)


@pytest.fixture
def url(running: Cluster) -> Iterator[str]:
    running.heal()
    with running.nodes[0].server.database() as url:
        yield url
        running.heal()


@pytest.fixture
async def bed(running: Cluster, url: str) -> AsyncIterator[Bed]:
    async with Link(url).open() as link:
        yield Bed(running, url, link)


@pytest.fixture
async def plane(bed: Bed) -> AsyncIterator[Plane]:
    async with a_plane(bed.link.url, InProcessBroker().transport()) as plane:
        await plane.register(*HOSTS)
        yield plane


@pytest.mark.rabbitmq
def test_the_programs_do_their_job_on_a_cluster(url: str, tmp_path: Path, amqp_url: str) -> None:
    installation = Installation(tmp_path / "cp", url, amqp_url)
    try:
        api = installation.initialise()
        installation.add_agent("web1", "web")
        api.online(["web1"])

        done = api.finished(api.run({"group": "web"}, "echo done"))

        assert {row["state"] for row in done.values()} == {"succeeded"}
        assert "room for" in installation.control_plane("log", "maintain")
        assert "differs" not in installation.control_plane("projections", "verify")
        installation.control_plane("audit", "verify")
    finally:
        installation.close()


# --- one node is lost


async def test_a_node_beside_the_writer_is_killed(bed: Bed, plane: Plane) -> None:
    load = Load(plane)
    async with load.running():
        bed.cluster.nodes[2].kill()
        await load.goes_on()
        await bed.heal()  # with appends going on
    print("beside the writer:", load.told())

    await assert_sound(plane, load.accepted, bed.replicas)


async def test_the_writer_is_killed_and_another_node_becomes_it(bed: Bed, plane: Plane) -> None:
    load, survivors = Load(plane), bed.cluster.nodes[1:]
    await Leases(plane.database, owner="gone").acquire("work")
    other = Leases(plane.database, owner="other")

    async with load.running():
        bed.cluster.nodes[0].kill()
        bed.link.lead_to(bed.by(survivors[0]))
        await load.goes_on()
    print("the writer:", load.told())

    assert await until(lambda: other.acquire("work")) == Lease("work", 2)
    await assert_sound(plane, load.accepted, [bed.by(node) for node in survivors])
    await bed.heal()
    await assert_sound(plane, load.accepted, bed.replicas)


async def test_the_writer_is_frozen_and_comes_back_when_another_node_is_it(bed: Bed, plane: Plane) -> None:
    load, writer = Load(plane), bed.cluster.nodes[0]
    async with load.running():
        writer.signal(signal.SIGSTOP)
        bed.link.lead_to(bed.by(bed.cluster.nodes[1]))
        await load.goes_on()
        writer.signal(signal.SIGCONT)
        await load.goes_on()
    print("the frozen writer:", load.told())

    await bed.heal()
    await assert_sound(plane, load.accepted, bed.replicas)


async def test_a_writer_that_is_cut_off_takes_nothing_and_is_used_again_or_left(bed: Bed, plane: Plane) -> None:
    load, writer = Load(plane), bed.cluster.nodes[0]
    async with load.running():
        await is_cut_off(writer)
        with pytest.raises(StorageUnavailableError, match="WSREP has not yet prepared node"):
            await plane.log.append([an_event("t1", kind="test")])
        with pytest.raises(StorageUnavailableError, match="WSREP has not yet prepared node"):
            await plane.log.head(EVENT)
        await bed.heal()
        await load.goes_on()

        await is_cut_off(writer)  # and now the load balancer leads new connections elsewhere, and lets the old ones be
        bed.link.lead_to(bed.by(bed.cluster.nodes[1]), cuts=False)
        await load.goes_on()
        assert (await plane.log.head(EVENT)).seq >= max(load.accepted.values())
    print("cut off:", load.told())

    await bed.heal()
    await assert_sound(plane, load.accepted, bed.replicas)


async def is_cut_off(node: Node) -> None:
    await asyncio.to_thread(node.isolate)

    async def is_apart() -> bool:
        return await asyncio.to_thread(node.status, "wsrep_cluster_status") == ("non-Primary",)

    await until(is_apart)


# --- all are lost


async def test_all_nodes_are_killed_and_nothing_acknowledged_is_lost(bed: Bed, plane: Plane) -> None:
    load, nodes = Load(plane), bed.cluster.nodes
    async with load.running():
        for node in nodes:
            node.kill()
        await bed.heal()  # they find each other by what each has kept of the last view
        await load.goes_on()

        for node in nodes:
            node.kill()
        for node in nodes:
            node.forget_view()
        ends = [await asyncio.to_thread(node.recover, nodes) for node in nodes]
        first = max(nodes, key=lambda node: int(ends[nodes.index(node)].rpartition(":")[2]))
        first.make_bootstrap()
        await asyncio.to_thread(bed.cluster.bootstrap, first)
        bed.link.lead_to(bed.by(first))
        await bed.heal()
        await load.goes_on()
    print("all at once, twice:", load.told())

    await assert_sound(plane, load.accepted, bed.replicas)


# --- more than one node is used


async def test_a_reader_on_another_node_sees_what_was_committed_before(bed: Bed, plane: Plane) -> None:
    behind = bed.cluster.nodes[1]
    async with open_database(bed.by(behind)) as database, EventLog.open(database) as log:
        with behind.standing_still():
            [outcome] = await plane.log.append([an_event("t1", kind="test")])
            reading = asyncio.ensure_future(log.head(EVENT))
            await asyncio.wait([reading], timeout=0.5)

        assert (await reading).seq == outcome.seq


async def test_two_writers_conflict_and_yet_number_and_key_each_event_once(bed: Bed, plane: Plane) -> None:
    async with (
        open_database(bed.by(bed.cluster.nodes[1])) as database,
        EventLog.open(database, clock=plane.clock) as log,
    ):
        beside = Plane(database, log, plane.transport, plane.clock, "beside")
        await beside.authority.refresh()
        here, there = Load(plane), Load(beside)
        async with here.running(), there.running(), beside.serving(*beside.projectors()):  # with the same tasks
            await here.goes_on(150)
            await there.goes_on(150)
    print("two writers:", here.told(), "and", there.told())

    assert {task_id: there.accepted.get(task_id, seq) for task_id, seq in here.accepted.items()} == here.accepted
    await assert_sound(plane, here.accepted | there.accepted, bed.replicas)
