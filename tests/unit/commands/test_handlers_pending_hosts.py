"""Hosts that ask without a token: they wait, bounded, for somebody who compares fingerprints."""

import asyncio

import pytest

from control_plane.commands.handlers.enrolment import Enrolled
from control_plane.commands.pending_hosts import WAIT_S, PendingHost, network_of
from control_plane.commands.throttle import ENROLMENTS_OF_ADDRESS
from control_plane.errors import NotAllowedError, NotFoundError, RefusedError, StorageUnavailableError, TooManyError
from control_plane_wire import proofs
from control_plane_wire.signing import CONTROL_PLANE, ENROL, SigningKey
from tests.support.fleet import ADMIN, OPERATOR, Desk, host_key


def print_of(key: SigningKey) -> str:
    return proofs.fingerprint(key.public_key)


async def ask(
    desk: Desk, hostname: str = "web1", key: SigningKey | None = None, *, address: str = "192.0.2.1"
) -> Enrolled | PendingHost:
    key = key or host_key(hostname)
    nonce = await desk.enrolment.begin(token=None, hostname=hostname, public_key=key.public_key)
    proof = key.sign(
        ENROL, sender=hostname, recipient=CONTROL_PLANE, body=proofs.of_request(hostname, key.public_key, nonce)
    )
    return await desk.pending.ask(
        hostname=hostname, public_key=key.public_key, nonce=nonce, proof=proof, address=address
    )


async def test_a_host_waits_until_it_is_accepted_and_is_then_told_what_a_token_would_have_told_it() -> None:
    desk = Desk()
    waiting = await ask(desk)
    assert isinstance(waiting, PendingHost)
    assert (await ask(desk), desk.kinds()) == (waiting, [])
    [shown] = await desk.pending.waiting(ADMIN)

    seq = await desk.pending.accept(ADMIN, print_of(host_key("web1")), hostname="web1", groups=["web"])
    enrolled = await ask(desk.beside())

    assert shown.fingerprint == print_of(host_key("web1"))
    assert isinstance(enrolled, Enrolled)
    assert (enrolled.as_of, dict(enrolled.groups)) == (seq, {"web": seq})
    assert desk.authority.fleet.host("web1").is_enrolled
    assert desk.kinds() == ["host.registered"]
    assert (await desk.pending.waiting(ADMIN), desk.requests.rows) == ([], {})
    assert await ask(desk) == enrolled


async def test_of_two_that_ask_for_a_name_both_are_shown_and_one_is_accepted() -> None:
    desk, other = Desk(), host_key("other")
    first = await ask(desk)
    await ask(desk, key=other, address="192.0.2.2")
    assert {row.hostname for row in await desk.pending.waiting(ADMIN)} == {"web1"}

    await desk.pending.accept(ADMIN, print_of(other), hostname="web1", groups=[])

    desk.clock.advance(60)
    assert await ask(desk) == first  # which tells it nothing of the other one
    with pytest.raises(RefusedError, match="host_exists"):
        await desk.pending.accept(ADMIN, print_of(host_key("web1")), hostname="web1", groups=[])
    assert desk.authority.fleet.host("web1").public_key == other.public_key


@pytest.mark.parametrize("is_revoked", [False, True])
async def test_a_name_that_is_taken_waits_as_any_other_and_only_who_may_accept_it_sees_that(is_revoked: bool) -> None:
    desk, other = Desk(), host_key("other")
    await desk.register("web1")
    if is_revoked:
        await desk.hosts.revoke(ADMIN, "web1", None)

    taken, free = await ask(desk, key=other), await ask(desk, "web2", address="192.0.2.2")

    assert isinstance(taken, PendingHost)
    assert isinstance(free, PendingHost)
    assert taken.expires_at == free.expires_at
    shown = await desk.pending.waiting(ADMIN)
    assert [(row.hostname, desk.pending.is_taken(row)) for row in shown] == [("web1", True), ("web2", False)]
    with pytest.raises(RefusedError, match="host_exists"):
        await desk.pending.accept(ADMIN, print_of(other), hostname="web1", groups=[])
    assert desk.authority.fleet.host("web1").public_key == host_key("web1").public_key


async def test_a_revoked_host_does_not_come_back_by_asking() -> None:
    desk = Desk()
    await ask(desk)
    await desk.pending.accept(ADMIN, print_of(host_key("web1")), hostname="web1", groups=[])
    await desk.hosts.revoke(ADMIN, "web1", "stolen")

    with pytest.raises(RefusedError, match="host_exists"):
        await ask(desk)


async def test_who_is_refused_is_told_and_that_is_an_event() -> None:
    desk = Desk()
    await ask(desk)
    await desk.pending.refuse(ADMIN, print_of(host_key("web1")))

    with pytest.raises(NotAllowedError, match="refused"):
        await ask(desk)

    assert desk.kinds() == ["host.request_refused", "access.denied"]
    assert await desk.pending.waiting(ADMIN) == []
    with pytest.raises(NotFoundError):
        await desk.pending.accept(ADMIN, print_of(host_key("web1")), hostname="web1", groups=[])


async def test_whoever_may_not_enrol_hosts_sees_accepts_and_refuses_none() -> None:
    desk = Desk()
    await ask(desk)
    fingerprint = print_of(host_key("web1"))

    for attempt in (
        desk.pending.waiting(OPERATOR),
        desk.pending.accept(OPERATOR, fingerprint, hostname="web1", groups=[]),
        desk.pending.refuse(OPERATOR, fingerprint),
    ):
        with pytest.raises(NotAllowedError):
            await attempt

    assert desk.kinds() == ["access.denied"] * 3


async def test_without_the_setting_nobody_may_ask_and_each_try_is_recorded() -> None:
    desk = Desk(pending_hosts=0)

    with pytest.raises(NotAllowedError, match="without a token"):
        await ask(desk)
    assert (desk.requests.rows, desk.kinds()) == ({}, ["access.denied"])


async def test_the_name_that_is_accepted_is_the_one_that_was_asked_for() -> None:
    desk = Desk()
    await ask(desk)

    with pytest.raises(RefusedError, match="is not the name"):
        await desk.pending.accept(ADMIN, print_of(host_key("web1")), hostname="db1", groups=[])


async def test_a_row_that_somebody_changed_in_the_database_registers_nobody_else() -> None:
    desk, thief = Desk(), host_key("thief")
    await ask(desk)
    desk.requests.rows[1] = ("web1", thief.public_key, None, desk.clock.now_s(), False)

    with pytest.raises(NotFoundError):
        await desk.pending.accept(ADMIN, print_of(host_key("web1")), hostname="web1", groups=[])


async def test_one_key_waits_once_and_a_key_of_a_host_is_no_new_hosts() -> None:
    desk = Desk()
    await desk.register("db1")
    await ask(desk)

    with pytest.raises(RefusedError, match="waits already, as web1"):
        await ask(desk, "web2", host_key("web1"))
    with pytest.raises(RefusedError, match="another host has"):
        await ask(desk, "web3", host_key("db1"))


async def test_nobody_fills_the_table_alone_and_who_waits_is_not_pushed_out() -> None:
    desk = Desk(pending_hosts=8)
    outcomes = [
        await asyncio.gather(
            *(ask(desk, f"h{sender}-{n}", address=f"192.0.2.{sender}") for n in range(10)), return_exceptions=True
        )
        for sender in range(10)
    ]

    waiting = await desk.pending.waiting(ADMIN)

    assert [sum(isinstance(each, PendingHost) for each in of_one) for of_one in outcomes] == [2] * 4 + [0] * 6
    assert all(isinstance(each, PendingHost | TooManyError) for of_one in outcomes for each in of_one)
    assert [row.hostname for row in waiting] == [f"h{sender}-{n}" for sender in range(4) for n in range(2)]
    await desk.handling.record_denials(desk.handling.denials.rest())
    assert len(desk.kinds()) <= 2 * 10  # one and a number, for each address


async def test_behind_one_address_as_many_wait_as_the_setting_says() -> None:
    desk = Desk(pending_hosts=8, pending_hosts_of_address=6)
    for n in range(6):
        await ask(desk, f"web{n}")

    with pytest.raises(TooManyError, match="of this address"):
        await ask(desk, "web6")
    await ask(desk, "web7", address="192.0.2.2")
    await ask(desk, "web8", address="192.0.2.3")
    with pytest.raises(TooManyError, match="too many hosts wait to be accepted"):
        await ask(desk, "web9", address="192.0.2.4")


async def test_the_place_of_a_request_that_is_over_is_free_again() -> None:
    desk = Desk(pending_hosts=1)
    await ask(desk, "web1")
    await desk.pending.refuse(ADMIN, print_of(host_key("web1")))
    await ask(desk, "web2")
    with pytest.raises(TooManyError):
        await ask(desk, "web3", address="192.0.2.3")
    desk.clock.advance(WAIT_S)

    await ask(desk, "web3", address="192.0.2.3")
    desk.clock.advance(WAIT_S)
    await ask(desk, "web3", address="192.0.2.3")

    assert [row.hostname for row in await desk.pending.waiting(ADMIN)] == ["web3"]


async def test_a_place_that_another_replica_has_filled_meanwhile_is_not_taken_from_it() -> None:
    desk = Desk()
    await ask(desk, "web1")

    with pytest.raises(StorageUnavailableError):
        await desk.requests.put(1, ("web2", b"2" * 32, None, 1, False), instead=None)


@pytest.mark.parametrize("wrong", ["key", "name", "purpose", "nonce", "recipient"])
async def test_a_request_is_proved_by_its_own_key_for_its_own_name_and_nonce(wrong: str) -> None:
    desk, key = Desk(), host_key("web1")
    nonce = await desk.enrolment.begin(token=None, hostname="web1", public_key=key.public_key)
    signer = host_key("other") if wrong == "key" else key
    of = proofs.of_rotation if wrong == "purpose" else proofs.of_request
    body = of("db1" if wrong == "name" else "web1", key.public_key, "1.2.3" if wrong == "nonce" else nonce)
    recipient = "web1" if wrong == "recipient" else CONTROL_PLANE
    proof = signer.sign(ENROL, sender="web1", recipient=recipient, body=body)

    with pytest.raises(RefusedError, match="proof_refused"):
        await desk.pending.ask(hostname="web1", public_key=key.public_key, nonce=nonce, proof=proof)
    assert (desk.requests.rows, desk.kinds()) == ({}, ["access.denied"])


async def test_an_address_asks_so_often_without_a_token_and_not_more_in_a_minute() -> None:
    desk, key = Desk(), host_key("web1").public_key

    async def nonce(address: str) -> str:
        return await desk.enrolment.begin(token=None, hostname="web1", public_key=key, address=address)

    for number in range(ENROLMENTS_OF_ADDRESS):
        await nonce(f"2001:db8::{number:x}")
    good = await nonce("2001:db8:0:1::1")
    wrong = {"hostname": "web1", "public_key": key, "proof": b"\0" * 64, "address": "2001:db8::ffff"}
    for attempt in (
        nonce("2001:db8::ffff"),
        desk.pending.ask(nonce=good, **wrong),  # type: ignore[arg-type]
        desk.rotations.rotate(nonce=good, new_proof=b"\0" * 64, **wrong),  # type: ignore[arg-type]
    ):
        with pytest.raises(TooManyError):
            await attempt
    desk.clock.advance(61)
    await nonce("2001:db8::ffff")


def test_an_ipv6_network_is_one_sender_and_what_is_no_address_is_itself() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::2") != network_of("2001:db8:0:1::1")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1")  # as an IPv6 socket is asked
    assert (network_of("unix"), network_of(None)) == ("unix", None)
