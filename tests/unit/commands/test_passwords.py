import asyncio
import threading
from collections.abc import Iterator

import pytest

from control_plane.commands import passwords
from control_plane.commands.passwords import MAX_KNOWN, MAX_OF_ONE, MAX_STRANGERS, PasswordHasher
from control_plane.errors import TooManyError

PASSWORD = "correct horse battery"


@pytest.fixture
def hasher() -> PasswordHasher:
    return PasswordHasher(memory_kib=64, iterations=1, lanes=1)


async def test_a_hash_is_argon2id_with_its_cost_and_verifies_its_password_alone(hasher: PasswordHasher) -> None:
    phc = await hasher.hash(PASSWORD)

    assert phc.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert await hasher.verify(PASSWORD, phc)
    assert not await hasher.verify(PASSWORD + "x", phc)
    assert not await hasher.verify("x" * 200_000, phc)
    assert phc != await hasher.hash(PASSWORD)


def test_the_cost_is_64_mib_three_times_in_four_lanes_unless_told_otherwise() -> None:
    assert PasswordHasher()._decoy.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


async def test_where_there_is_no_hash_the_same_work_is_done_and_nothing_matches(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    verify = passwords.verifies

    def recording(text: str, phc: str) -> bool:
        verified.append(phc)
        return verify(text, phc)

    monkeypatch.setattr(passwords, "verifies", recording)
    phc = await hasher.hash(PASSWORD)

    assert not await hasher.verify(PASSWORD, None)
    assert await hasher.verify(PASSWORD, phc)

    shapes = [[part if "=" in part else len(part) for part in each.split("$")] for each in verified]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("phc", ["", "x", "$argon2i$v=19$m=64,t=1,p=1$AAAA$AAAA", "$argon2id$v=19$m=64$x"])
async def test_what_is_no_hash_matches_nothing(hasher: PasswordHasher, phc: str) -> None:
    assert not await hasher.verify(PASSWORD, phc)


class Gate:
    """Holds verifications until released, and counts how many are under way."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.full = threading.Semaphore(0)
        self.opened = threading.Event()
        self._lock = threading.Lock()

    def verify(self, _text: str, _phc: str) -> bool:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.full.release()
        self.opened.wait(10)
        with self._lock:
            self.now -= 1
        return False


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(passwords, "verifies", gate.verify)
    yield gate
    gate.opened.set()


async def test_one_runs_at_a_time_even_where_callers_give_up(hasher: PasswordHasher, gate: Gate) -> None:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        callers = [group.create_task(hasher.verify(PASSWORD, None)) for _ in range(1 + MAX_STRANGERS)]
        await asyncio.to_thread(gate.full.acquire)
        for caller in callers[:8]:
            caller.cancel()
        gate.opened.set()

    assert gate.most == 1


async def test_of_strangers_few_wait_and_one_more_is_told_so_at_once(hasher: PasswordHasher, gate: Gate) -> None:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = [group.create_task(hasher.verify(PASSWORD, None)) for _ in range(1 + MAX_STRANGERS)]
        await asyncio.to_thread(gate.full.acquire)
        with pytest.raises(TooManyError):
            await hasher.verify(PASSWORD, None)
        known = group.create_task(hasher.verify(PASSWORD, None, of="ada"))
        waiting[-1].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.append(group.create_task(hasher.verify(PASSWORD, None)))  # in the place of who has given up
        await asyncio.sleep(0)
        gate.opened.set()
        assert await known is False


async def test_who_is_known_waits_for_one_stranger_at_most_and_holds_nobody_up(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, order = Gate(), list[str]()

    def verify(text: str, phc: str) -> bool:
        order.append(text)
        return gate.verify(text, phc)

    monkeypatch.setattr(passwords, "verifies", verify)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for each in range(4):
            group.create_task(hasher.verify(f"stranger {each}", None))
        await asyncio.to_thread(gate.full.acquire)
        for each in range(3):
            group.create_task(hasher.verify(f"known {each}", None, of="ada"))
        await asyncio.sleep(0)
        gate.opened.set()

    assert order == [
        *("stranger 0", "known 0", "stranger 1", "known 1", "stranger 2", "known 2", "stranger 3"),
    ]


async def test_the_lane_of_the_known_is_bounded_too_and_no_one_of_them_has_all_of_it(
    hasher: PasswordHasher, gate: Gate
) -> None:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(hasher.verify(PASSWORD, None, of="first"))
        await asyncio.to_thread(gate.full.acquire)
        for each in range(MAX_KNOWN):
            group.create_task(hasher.verify(PASSWORD, None, of=each // MAX_OF_ONE))
        await asyncio.sleep(0)
        for of in (0, "another"):
            with pytest.raises(TooManyError):
                await hasher.verify(PASSWORD, None, of=of)
        gate.opened.set()


async def test_at_their_real_cost_many_at_once_come_to_an_end_wherever_they_are_asked_for() -> None:
    """OpenSSL's own threads may keep two of them waiting for each other for ever."""
    async with asyncio.timeout(120):
        found = await asyncio.gather(*(PasswordHasher().verify(PASSWORD, None) for _ in range(6)))

    assert found == [False] * 6
