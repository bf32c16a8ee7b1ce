"""Whatever is killed where while a host takes a new key, it has one that the control plane knows."""

import asyncio
import itertools
from random import Random

import pytest

from control_plane_agent import rotation
from control_plane_agent.errors import ConfigurationError, EnrolmentError
from control_plane_agent.identity import IDENTITY, KEY, Identity, parse, read_key, replace_file, save, written
from control_plane_agent.rotation import ROTATION, Renewed, ask, find, take
from control_plane_wire.signing import SigningKey
from tests.support.agent import an_identity
from tests.support.crash_disk import Choose, CrashDisk, PowerLost, by_chance, nothing
from tests.support.enrolling import DeskServer
from tests.support.fleet import ADMIN, Desk, host_key

OLD = host_key("web1")
FIRST_URL = f"amqp://h-{OLD.key_id}-1:secret@broker"


def a_desk() -> Desk:
    desk = Desk()
    asyncio.run(desk.register("web1"))
    return desk


def a_disk() -> CrashDisk:
    """Of a host that is enrolled."""
    disk = CrashDisk()
    save(disk, an_identity(hostname="web1", key=OLD, amqp_url=FIRST_URL))
    replace_file(disk, KEY, written(OLD))
    return disk


def next_start(disk: CrashDisk) -> Identity:
    """Who the agent is that starts on this disk."""
    take(disk)
    return parse(disk.read(IDENTITY), read_key(disk.read(KEY)))


def rotated(disk: CrashDisk, server: DeskServer) -> Identity:
    ask(disk, server)
    return next_start(disk)


def works(who: Identity, desk: Desk) -> None:
    """Its key is one that the control plane takes, and its account that key's."""
    assert who.key.public_key in desk.authority.fleet.public_keys("web1")
    assert f"h-{who.key.key_id}-" in who.amqp_url


def everything() -> bool:
    return True


@pytest.mark.parametrize("choose", [nothing, everything, *(by_chance(Random(seed)) for seed in range(4))])
def test_the_power_may_go_at_each_change_of_the_disk(choose: Choose) -> None:
    for steps in itertools.count():
        desk, disk = a_desk(), a_disk()
        disk.steps_left = steps
        try:
            rotated(disk, DeskServer(desk))
            is_whole = True
        except PowerLost:
            is_whole = False
        left = disk.after_crash(choose)

        works(next_start(left), desk)
        desk.clock.advance(1)
        who = rotated(left, DeskServer(desk))

        works(who, desk)
        assert who.key.public_key != OLD.public_key
        assert find(left) is None
        if is_whole:
            break
    assert steps > 15


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", ["/enrol/begin", "/enrol/rotate"])
def test_it_may_be_killed_before_and_after_each_request(at: str, when: str) -> None:
    def kill(path: str) -> None:
        if path == at:
            raise PowerLost

    desk, disk = a_desk(), a_disk()
    server = DeskServer(desk, before=kill) if when == "before" else DeskServer(desk, after=kill)
    with pytest.raises(PowerLost):
        ask(disk, server)
    left = disk.after_crash()

    works(next_start(left), desk)
    assert next_start(left).key.public_key == OLD.public_key
    desk.clock.advance(1)
    works(rotated(left, DeskServer(desk)), desk)
    assert desk.kinds().count("host.key_rotated") == (2 if (at, when) == ("/enrol/rotate", "after") else 1)


def test_all_the_rest_of_the_identity_stays() -> None:
    desk, disk = a_desk(), a_disk()
    before = next_start(disk)

    after = rotated(disk, DeskServer(desk))

    assert (after.groups, after.keys, after.enrolled_as_of) == (before.groups, before.keys, before.enrolled_as_of)
    assert disk.files("identity") == [IDENTITY, KEY]


def test_what_is_refused_leaves_the_key_as_it_was() -> None:
    desk, disk = a_desk(), a_disk()
    asyncio.run(desk.hosts.revoke(ADMIN, "web1", "stolen"))

    with pytest.raises(EnrolmentError, match="no active host"):
        ask(disk, DeskServer(desk))

    assert next_start(disk).key.public_key == OLD.public_key


def test_an_account_that_is_prescribed_and_would_go_with_its_key_is_told() -> None:
    desk, disk = a_desk(), a_disk()

    with pytest.raises(ConfigurationError, match="unset it"):
        ask(disk, DeskServer(desk), prescribed_url=FIRST_URL)

    assert next_start(disk).key.public_key == OLD.public_key


@pytest.mark.parametrize("text", [b"", b"{}", b'{"known":1,"key":"00"}', b'{"known":true,"key":"zz"}'])
def test_a_file_that_is_none_is_told_and_nothing_is_taken(text: bytes) -> None:
    disk = a_disk()
    replace_file(disk, ROTATION, text)

    with pytest.raises(ConfigurationError, match="remove it to begin again"):
        take(disk)


class Working:
    """An agent that works until it is told to stop, or that never ends."""

    name = "agent"

    def __init__(self, *, hangs: bool = False) -> None:
        self.has_started, self.has_ended, self._hangs = asyncio.Event(), False, hangs

    async def run(self, stop: asyncio.Event) -> None:
        self.has_started.set()
        await (asyncio.Event() if self._hangs else stop).wait()
        self.has_ended = True


@pytest.mark.parametrize("hangs", [False, True])
async def test_the_running_agent_is_followed_by_another_as_soon_as_the_control_plane_knows_the_new_key(
    hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "LOOK_S", 0.01)
    disk, stop, looks = a_disk(), asyncio.Event(), asyncio.Semaphore(0)
    first, second, read = Working(hangs=hangs), Working(), disk.read

    def counted(path: str) -> bytes:
        looks.release()
        return read(path)

    def again() -> Working:
        assert take(disk)
        return second

    monkeypatch.setattr(disk, "read", counted)
    new = rotation.Rotation(key=SigningKey.generate())
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        rotation._write(disk, new)
        tasks.create_task(Renewed(disk, first, again, drain_s=0.05).run(stop))
        for _ in range(3):
            await looks.acquire()
        assert not second.has_started.is_set()
        rotation._write(disk, rotation.Rotation(key=new.key, is_known=True))
        await second.has_started.wait()
        assert first.has_ended is not hangs
        assert not second.has_ended
        stop.set()

    assert second.has_ended
    assert next_start(disk).key.public_key == new.key.public_key


async def test_an_agent_that_ends_by_itself_is_no_reason_for_another() -> None:
    class Failing(Working):
        async def run(self, stop: asyncio.Event) -> None:
            return

    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(30):
            await Renewed(a_disk(), Failing(), Working, drain_s=1).run(asyncio.Event())
