"""How often a password may be tried."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.commands import throttle
from control_plane.commands.throttle import Limit, Rate
from control_plane.errors import NotSignedInError, StorageUnavailableError, TooManyError
from tests.support.fleet import PASSWORD, Desk


@given(pauses=st.lists(st.integers(0, 30), max_size=60), most=st.integers(1, 5), window_s=st.integers(1, 100))
def test_no_window_ever_has_more_than_it_may(pauses: list[int], most: int, window_s: int) -> None:
    limit, now_s, let_in = Limit(most, window_s), 0, []
    for pause_s in pauses:
        now_s += pause_s
        wait_s = limit.wait_s("key", now_s)
        assert 0 <= wait_s <= window_s
        if wait_s == 0:
            limit.count("key", now_s)
            let_in.append(now_s)
    for time_s in let_in:
        assert sum(time_s - window_s < each <= time_s for each in let_in) <= most


def test_who_has_waited_may_try_again() -> None:
    limit = Limit(2, 60)
    limit.count("a", 0)
    limit.count("a", 10)
    assert limit.wait_s("a", 20) == 40
    assert limit.wait_s("b", 20) == 0
    assert limit.wait_s("a", 60) == 0


def test_it_remembers_so_many_keys_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MAX_KEYS", 3)
    limit = Limit(1, 60)
    for key in ("a", "b", "a", "c", "d"):
        limit.count(key, 0)
    assert [limit.wait_s(key, 1) > 0 for key in ("a", "b", "c", "d")] == [True, False, True, True]


async def a_desk() -> Desk:
    desk = Desk()
    await desk.user("ada", "operator")
    return desk


async def tries(desk: Desk, number: int, username: str, *, address: str | None = None) -> int:
    """How many of so many wrong passwords were looked at, each from another address unless one is given."""
    evaluated = 0
    for each in range(number):
        try:
            await desk.access.login(username, f"wrong {each}", address=address or f"203.0.113.{each}")
        except NotSignedInError:
            evaluated += 1
        except TooManyError:
            continue
    return evaluated


@pytest.mark.parametrize("username", ["ada", "nobody"])
async def test_of_a_thousand_wrong_passwords_few_are_looked_at(username: str) -> None:
    assert await tries(await a_desk(), 1000, username) == throttle.FAILURES_OF_ACCOUNT


async def test_and_few_of_many_names_from_one_address() -> None:
    desk = await a_desk()
    evaluated = [await tries(desk, 1, f"name{each}", address="203.0.113.1") for each in range(100)]
    assert sum(evaluated) == throttle.LOGINS_OF_ADDRESS


async def test_a_network_is_one_address_and_an_ipv4_one_is_itself_however_it_is_written() -> None:
    desk = await a_desk()
    evaluated = [await tries(desk, 1, f"name{each}", address=f"2001:db8::{each:x}") for each in range(100)]
    assert sum(evaluated) == throttle.LOGINS_OF_ADDRESS
    assert await tries(desk, 1, "somebody", address="::ffff:192.0.2.1") == 1
    assert await tries(desk, 20, "others", address="192.0.2.1") < throttle.LOGINS_OF_ADDRESS


async def test_the_networks_of_one_customer_are_counted_together() -> None:
    desk = await a_desk()
    evaluated = [await tries(desk, 1, f"name{each}", address=f"2001:db8:0:{each:x}::1") for each in range(100)]
    assert sum(evaluated) == throttle.LOGINS_OF_SITE
    assert await tries(desk, 1, "somebody", address="2001:db8:1::1") == 1


async def test_who_has_signed_in_from_there_before_is_known_to_the_hasher_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, asked = await a_desk(), list[object]()

    async def verify(_password: str, _phc: str | None, *, of: object = None) -> bool:
        asked.append(of)
        return True

    monkeypatch.setattr(desk.access._hasher, "verify", verify)
    for address in ("198.51.100.7", "198.51.100.7", "203.0.113.1"):
        await desk.access.login("ada", PASSWORD, address=address)
    assert [of is not None for of in asked] == [False, True, False]


async def test_where_too_many_wait_it_is_recorded_and_the_try_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await a_desk()

    async def is_full(*_: object, **__: object) -> bool:
        raise TooManyError("too_many_logins", "too many", 2.0)

    with monkeypatch.context() as patch:
        patch.setattr(desk.access._hasher, "verify", is_full)
        for _ in range(20):
            with pytest.raises(TooManyError):
                await desk.access.login("ada", PASSWORD, address="198.51.100.7")
    assert desk.kinds()[-1] == "access.denied"
    assert await desk.access.login("ada", PASSWORD, address="198.51.100.7")


async def test_the_right_password_does_not_open_what_is_locked_and_does_afterwards() -> None:
    desk = await a_desk()
    await tries(desk, 5, "ada")
    with pytest.raises(TooManyError) as refused:
        await desk.access.login("ada", PASSWORD, address="203.0.113.99")
    assert refused.value.wait_s == throttle.ACCOUNT_S
    desk.clock.advance(throttle.ACCOUNT_S + 1)
    assert await desk.access.login("ada", PASSWORD, address="203.0.113.99")


async def test_others_do_not_lock_out_who_has_signed_in_from_the_same_place_before() -> None:
    desk = await a_desk()
    await desk.access.login("ada", PASSWORD, address="198.51.100.7")
    await tries(desk, 50, "ada")
    assert await desk.access.login("ada", PASSWORD, address="198.51.100.7")


async def test_others_behind_the_same_proxy_do_not_lock_out_who_has_signed_in_there() -> None:
    desk = await a_desk()
    await desk.access.login("ada", PASSWORD, address="192.0.2.1")
    for each in range(50):
        await tries(desk, 1, f"name{each}", address="192.0.2.1")
    assert await desk.access.login("ada", PASSWORD, address="192.0.2.1")


async def test_a_try_of_which_no_password_was_looked_at_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await a_desk()

    async def is_away(_: str) -> str | None:
        raise StorageUnavailableError

    with monkeypatch.context() as patch:
        patch.setattr(desk.credentials, "get", is_away)
        for _ in range(20):
            with pytest.raises(StorageUnavailableError):
                await desk.access.login("ada", PASSWORD, address="198.51.100.7")
    assert await desk.access.login("ada", PASSWORD, address="198.51.100.7")


async def test_many_at_once_are_not_more() -> None:
    desk = await a_desk()
    evaluated = await asyncio.gather(*(tries(desk, 1, "ada", address=f"203.0.113.{each}") for each in range(50)))
    assert sum(evaluated) == throttle.FAILURES_OF_ACCOUNT


async def test_whoever_knows_the_password_may_sign_in_as_often_as_is_needed() -> None:
    desk = await a_desk()
    for _ in range(30):
        await desk.access.login("ada", PASSWORD, address="198.51.100.7")


async def test_what_was_refused_is_in_the_log() -> None:
    desk = await a_desk()
    await tries(desk, 6, "ada")
    assert desk.kinds()[-6:] == ["login.failed"] * 5 + ["access.denied"]


# --- requests


@given(pauses_ms=st.lists(st.integers(0, 2000), max_size=100), per_s=st.sampled_from([0.5, 1, 5, 20]))
def test_no_stretch_of_time_has_more_requests_than_a_rate_and_its_burst(pauses_ms: list[int], per_s: float) -> None:
    rate, now_s, let_in = Rate(per_s), 0.0, []
    for pause_ms in pauses_ms:
        now_s += pause_ms / 1000
        wait_s = rate.take("key", now_s)
        assert 0 <= wait_s <= 1 / per_s
        if wait_s == 0:
            let_in.append(now_s)
    most = max(1.0, per_s * throttle.BURST_S)
    for first, begins_s in enumerate(let_in):
        for last, ends_s in enumerate(let_in[first:], start=first):
            assert last - first + 1 <= most + (ends_s - begins_s) * per_s + 1e-6


def test_a_rate_lets_in_who_has_waited_and_remembers_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MAX_KEYS", 2)
    rate = Rate(1)
    assert [rate.take("a", 0) for _ in range(3)] == [0, 0, 1]
    assert rate.take("a", 1) == 0
    assert rate.take("b", 1) == rate.take("c", 1) == 0
    assert len(rate._left) == 2


def test_a_rate_of_nothing_is_no_limit_and_takes_no_memory() -> None:
    rate = Rate(0)
    assert {rate.take(key, 0) for key in range(1000)} == {0}
    assert not rate._left
