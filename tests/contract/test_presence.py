"""What presence promises: who is there, and whom it doubts, on every database and broker."""

import itertools
from copy import copy
from functools import partial
from typing import Any

import pytest

from control_plane.events import hosts
from control_plane.events.envelope import HEARTBEAT_EVENT, LogName, StoredEvent
from control_plane.processes.presence import HEARING
from tests.support.fleet import ADMIN, a_registration, host_key
from tests.support.plane import Plane, until
from tests.support.process_contract import (
    OnServers,
    OnSqlite,
    ProcessContract,
)


class PresenceContract(ProcessContract):
    async def test_a_host_is_online_when_it_is_heard_and_offline_after_three_intervals(self, plane: Plane) -> None:
        async with plane.watching():
            beat = await self.beat(plane, "web1", 1)
            [online] = await plane.recorded(hosts.HostWentOnline.KIND)
            plane.clock.advance(29)
            await self.beat(plane, "web2", 1)
            await plane.recorded(hosts.HostWentOnline.KIND, number=2)
            plane.clock.advance(1)
            [offline] = await plane.recorded(hosts.HostWentOffline.KIND)

        assert isinstance(online, hosts.HostWentOnline)
        assert (online.hostname, online.heartbeat_seq, online.heartbeat) == ("web1", 1, beat)
        assert isinstance(offline, hosts.HostWentOffline)
        assert (offline.hostname, offline.heartbeat_seq, offline.heartbeat) == ("web1", 1, beat)

    async def test_whoever_takes_over_says_nothing_twice_and_misses_nobody_before_its_time(self, plane: Plane) -> None:
        async with plane.watching():
            await self.beat(plane, "web1", 1)
            await plane.recorded(hosts.HostWentOnline.KIND)
        await plane.shown()
        plane.clock.advance(1000)

        async with plane.beside().watching():
            await self.beat(plane, "web2", 1)
            await plane.recorded(hosts.HostWentOnline.KIND, number=2)
            plane.clock.advance(29)
            await self.beat(plane, "db1", 1)
            await plane.recorded(hosts.HostWentOnline.KIND, number=3)
            assert await plane.events(hosts.HostWentOffline.KIND) == []
            plane.clock.advance(1)
            await plane.recorded(hosts.HostWentOffline.KIND)

        assert len(await plane.events(hosts.HostWentOnline.KIND)) == 3

    async def test_whoever_takes_over_notices_that_an_agent_has_connected_anew_meanwhile(self, plane: Plane) -> None:
        async with plane.watching():
            await self.beat(plane, "web1", 1, session=1)
            await plane.recorded(hosts.HostWentOnline.KIND)
        await plane.shown()

        async with plane.beside().watching():
            await self.beat(plane, "web1", 2, session=2)
            [_, anew] = await plane.recorded(hosts.HostWentOnline.KIND, number=2)

        assert isinstance(anew, hosts.HostWentOnline)
        assert (anew.heartbeat_seq, anew.cause) == (2, "the agent connected anew")

    async def test_a_journal_that_went_back_is_recorded_once_and_again_after_it_was_trusted_again(
        self, plane: Plane
    ) -> None:
        async with plane.watching():
            await self.journal(plane, 1, 200)
            await self.journal(plane, 2, 100)
            [first] = await plane.recorded(hosts.HostQuarantined.KIND)
            await self.journal(plane, 3, 50)
            await plane.authority.refresh()
            await plane.hosts.lift_quarantine(ADMIN, "web1", "it was restored")
            await self.journal(plane, 4, 50)
            await self.journal(plane, 5, 40)
            await plane.recorded(hosts.HostQuarantined.KIND, number=2)

        assert first == hosts.HostQuarantined(
            hostname="web1",
            heartbeat_seq=2,
            key_id=host_key("web1").key_id,
            reason="its journal went back in time",
            before="200",
            after="100",
        )
        again = (await plane.events(hosts.HostQuarantined.KIND))[1]
        assert isinstance(again, hosts.HostQuarantined)
        assert (again.before, again.after) == ("50", "40")
        await plane.authority.refresh()
        assert plane.authority.fleet.quarantined() == ["web1"]

    async def test_what_was_read_by_the_table_alone_is_found_by_whoever_takes_over(self, plane: Plane) -> None:
        """Whoever watched before has died between a heartbeat and its quarantine."""
        async with plane.watching():
            await self.journal(plane, 1, 200)
            await plane.recorded(hosts.HostWentOnline.KIND)
        await self.journal(plane, 2, 100)
        await self.journal(plane, 3, 110)

        for number in ("two", "three"):
            async with plane.beside(number).watching():
                [event] = await plane.recorded(hosts.HostQuarantined.KIND)
                await plane.shown()

        assert isinstance(event, hosts.HostQuarantined)
        assert event.heartbeat_seq == 2

    async def test_another_machine_of_that_name_is_not_compared_with_the_first(self, plane: Plane) -> None:
        async with plane.watching():
            await self.journal(plane, 1, 200)
            await plane.hosts.retire(ADMIN, "web1", None)
            await plane.handling.record(a_registration("web1", generation=2), actor="root")
            await self.journal(plane, 1, 0, boot_id="b2")
            await self.journal(plane, 2, 0, boot_id="b2")
            await plane.recorded(hosts.HostWentOnline.KIND, number=2)
        await plane.shown()
        async with plane.beside().watching():
            await self.journal(plane, 3, 0, boot_id="b2")
            await self.beat(plane, "web2", 1)
            await plane.recorded(hosts.HostWentOnline.KIND, number=3)

        assert await plane.events(hosts.HostQuarantined.KIND) == []

    async def test_nobody_is_missed_while_nobody_takes_heartbeats_in_nor_right_after(self, plane: Plane) -> None:
        """Whoever does may be another process, and only its lease tells that it is at work."""
        other, looks = plane.beside(), 0
        held = plane.leases.held

        async def look(name: str) -> int | None:
            nonlocal looks
            looks += 1
            return await held(name)

        async def has_looked() -> bool:
            return looks > 0

        async def look_after(seconds: float) -> None:
            """The second of two looks comes when all that follows from the first is recorded."""
            nonlocal looks
            for part in (seconds - 1, 1):
                looks = 0
                plane.clock.advance(part)
                await until(has_looked)

        plane.leases.held = look  # type: ignore[method-assign]
        async with plane.watching(heard=False):
            await self.beat(plane, "web1", 1)
            await plane.recorded(hosts.HostWentOnline.KIND)
            await look_after(1000)

            async with other.serving(other.heartbeats()):
                await until(partial(held, HEARING))
                await look_after(2)
                await look_after(28)
                assert await plane.events(hosts.HostWentOffline.KIND) == []
                await look_after(2)
                await plane.recorded(hosts.HostWentOffline.KIND)

    async def test_a_stream_of_heartbeats_that_never_ends_keeps_no_silent_host_online(self, plane: Plane) -> None:
        read, sequences = plane.log.read, itertools.count(1)

        async def read_meanwhile(name: LogName, **given: Any) -> list[StoredEvent]:
            if name == HEARTBEAT_EVENT:
                await self.beat(plane, "web2", next(sequences))
            return await read(name, **given)

        async with plane.watching():
            await self.beat(plane, "web1", 1)
            await plane.recorded(hosts.HostWentOnline.KIND)
            plane.log.read = read_meanwhile  # type: ignore[method-assign, assignment]
            await plane.recorded(hosts.HostWentOnline.KIND, number=2)
            plane.clock.advance(30)
            [event] = await plane.recorded(hosts.HostWentOffline.KIND)

        assert isinstance(event, hosts.HostWentOffline)
        assert event.hostname == "web1"

    async def test_the_first_heartbeat_of_a_host_that_has_just_been_registered_brings_it_online(
        self, plane: Plane
    ) -> None:
        log, is_registered = copy(plane.log), False  # that of presence alone: projectors read the same one

        async def read_meanwhile(name: LogName, **given: Any) -> list[StoredEvent]:
            """Events are read, then a host is registered and heard, then heartbeats are read."""
            nonlocal is_registered
            if name == HEARTBEAT_EVENT and not is_registered:
                is_registered = True
                await plane.register_quietly("new1")
                await self.beat(plane, "new1", 1)
            return await plane.log.read(name, **given)

        log.read = read_meanwhile  # type: ignore[method-assign, assignment]
        async with plane.watching(log):
            [event] = await plane.recorded(hosts.HostWentOnline.KIND)

        assert isinstance(event, hosts.HostWentOnline)
        assert (event.hostname, event.heartbeat_seq) == ("new1", 1)


class TestSqliteInProcess(OnSqlite, PresenceContract):
    pass


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(OnServers, PresenceContract):
    pass
