"""Nothing in the database grants anything by itself: what is forged is counted and has no effect."""

import asyncio
from dataclasses import replace

import pytest

from control_plane.commands import authority
from control_plane.commands.access import Principal
from control_plane.commands.authority import KINDS, PAGE, Authority, Keyring
from control_plane.commands.enrolment import KEPT_S
from control_plane.commands.passwords import digest
from control_plane.commands.previews import PREVIEW_S
from control_plane.errors import NotSignedInError, StorageUnavailableError
from control_plane.events import access, enrolment, hosts, rules
from control_plane.events.envelope import EVENT
from control_plane.events.event import Event
from control_plane_wire.signing import SigningKey, encode_base64
from tests.support.clock import ManualClock
from tests.support.events import AT, EXAMPLES, SHA
from tests.support.fleet import ADMIN, CONTROL_PLANE_KEY, PASSWORD, Desk, a_registration, host_key
from tests.support.memory_log import MemoryLog
from tests.unit.commands.test_rules import a_rule

SOMEBODY = SigningKey.from_bytes(b"\x66" * 32)
SECRET = "s" * 43


FORGED: list[Event] = [
    access.UserCreated(username="mallory", based_on=0, role="administrator", phc_sha256=SHA),
    access.UserRoleChanged(username="ada", based_on=1, role="administrator"),
    access.UserPasswordChanged(username="ada", based_on=1, phc_sha256=SHA),
    access.UserDisabled(username="ada", based_on=1),
    access.SessionOpened(session_sha256=digest(SECRET), username="ada", expires_at=AT + 3600),
    access.TokenCreated(token_id="a" * 16, token_sha256=SHA, username="ada", name="x", expires_at=AT + 3600),
    a_registration("web1"),
    hosts.HostGroupsChanged(hostname="web9", based_on=2, groups=("prod",)),
    hosts.HostRevoked(hostname="web9", based_on=2),
    enrolment.EnrolmentTokenCreated(
        token_id="b" * 16, token_sha256=SHA, groups=(), expires_at=AT + 3600, created_by="ada"
    ),
    a_rule("forged", subject="user:ada", actions={"tasks.run"}).to_event(),
]


async def a_desk() -> Desk:
    """One viewer, ada (event 1), and one host, web9 (event 2)."""
    desk = Desk()
    await desk.access.create_user(ADMIN, "ada", role="viewer", password=PASSWORD)
    await desk.register("web9")
    return desk


@pytest.mark.parametrize("key", [None, SOMEBODY], ids=["unsigned", "signed by somebody"])
@pytest.mark.parametrize("event", FORGED, ids=lambda event: event.KIND)
async def test_a_forged_row_grants_nothing_and_is_counted(event: Event, key: SigningKey | None) -> None:
    desk = await a_desk()
    before = (desk.authority.access, desk.authority.fleet.hosts.copy(), desk.authority.enrolment.tokens.copy())
    users = dict(before[0].users)

    desk.insert(event, key)
    await desk.authority.refresh()

    state = desk.authority
    assert (state.access.users, state.access.sessions, state.access.tokens) == (users, {}, {})
    assert (state.fleet.hosts, state.enrolment.tokens) == before[1:]
    assert state.rules.rules == {}
    assert state.refused == 1
    with pytest.raises(NotSignedInError):
        desk.access.by_session(SECRET)


async def test_a_key_id_of_ours_does_not_help_a_signature_of_somebodys() -> None:
    desk = await a_desk()
    desk.insert(FORGED[1], SOMEBODY)
    desk.log.rows[-1] = desk.log.rows[-1]._replace(key_id=desk.keyring.active.key_id)

    await desk.authority.refresh()

    assert desk.authority.access.users["ada"].role == "viewer"


async def test_an_edited_row_no_longer_counts() -> None:
    desk = await a_desk()
    authored = desk.log.rows[0]
    desk.log.rows[0] = authored._replace(body=authored.body.replace(b'"viewer"', b'"administrator"'))
    beside = desk.beside()

    await beside.authority.refresh()

    assert beside.authority.access.users == {}


async def test_a_copy_of_an_old_row_brings_nothing_back() -> None:
    desk = await a_desk()
    session = await desk.access.login("ada", PASSWORD, address=None)
    token = await desk.tokens.create(session.principal, username="ada", name="ci", days=1)
    await desk.hosts.set_groups(ADMIN, "web9", ["prod"])
    await desk.hosts.set_groups(ADMIN, "web9", [])
    genuine = list(desk.log.rows)
    await desk.tokens.revoke(session.principal, token.token_id)
    await desk.access.logout(session.principal)
    await desk.hosts.revoke(ADMIN, "web9", None)

    for row in genuine:
        desk.log.rows.append(row._replace(seq=len(desk.log.rows) + 1))
    beside = desk.beside()
    await beside.authority.refresh()

    assert beside.authority.refused == len(genuine)
    host = beside.authority.fleet.hosts["web9"]
    assert (host.status, dict(host.groups)) == ("revoked", {})
    for enter, secret in ((beside.access.by_session, session.secret), (beside.access.by_token, token.text)):
        with pytest.raises(NotSignedInError):
            enter(secret)


@pytest.mark.parametrize("key", [None, SOMEBODY], ids=["unsigned", "signed by somebody"])
async def test_a_forged_deletion_ends_no_rule(key: SigningKey | None) -> None:
    desk = await a_desk()
    rule_id, seq = await desk.rules.create(ADMIN, a_rule(effect="deny", subject="user:ada", actions={"tasks.run"}))

    desk.insert(rules.RuleDeleted(rule_id=rule_id), key)
    await desk.authority.refresh()

    assert desk.authority.rules.rules.keys() == {rule_id}
    assert (desk.authority.rules.changed_seq, desk.authority.refused) == (seq, 1)


async def test_a_copy_of_a_rule_that_was_deleted_brings_it_back_to_nobody() -> None:
    desk = await a_desk()
    rule_id, seq = await desk.rules.create(ADMIN, a_rule(subject="user:ada", actions={"tasks.run"}))
    await desk.rules.delete(ADMIN, rule_id)
    genuine = desk.log.rows[seq - 1]
    desk.log.rows.append(genuine._replace(seq=len(desk.log.rows) + 1))
    other = genuine._replace(seq=len(desk.log.rows) + 1, body=genuine.body.replace(rule_id.encode(), b"f" * 16))
    desk.log.rows.append(other)

    for replica in (desk, desk.beside()):
        await replica.authority.refresh()
        assert replica.authority.rules.rules == {}
        assert replica.authority.refused == 2


async def test_a_key_under_which_signatures_could_be_forged_does_not_count_even_signed() -> None:
    desk = await a_desk()
    weak = replace(a_registration("weak"), public_key=encode_base64(bytes(32)))
    desk.insert(weak, desk.keyring.active)

    await desk.authority.refresh()

    assert "weak" not in desk.authority.fleet.hosts


async def test_two_replicas_that_read_the_same_log_agree() -> None:
    desk = await a_desk()
    for n in range(5):
        await desk.register(f"web{n}", "web")
    await desk.hosts.retire(ADMIN, "web3", "gone")
    await desk.access.login("ada", PASSWORD, address=None)
    beside = desk.beside()

    await beside.authority.refresh()

    assert beside.authority.fleet == desk.authority.fleet
    assert beside.authority.access == desk.authority.access
    assert beside.authority.rules == desk.authority.rules
    assert beside.authority.position == desk.authority.position


async def test_history_signed_by_a_retired_key_still_counts_and_the_new_key_signs() -> None:
    desk = await a_desk()
    new = SigningKey.generate()
    await desk.rotate_to(new)
    await desk.retire_first()

    beside = desk.beside(Keyring(new, first=CONTROL_PLANE_KEY.public_key))
    await beside.register("web1")

    assert {"web9", "web1"} == beside.authority.fleet.hosts.keys()
    assert desk.log.rows[-1].key_id == new.key_id


async def test_the_fleet_of_an_earlier_position_is_what_it_was() -> None:
    desk = await a_desk()
    joined = await desk.hosts.set_groups(ADMIN, "web9", ["web"])
    await desk.register("web1")
    await desk.hosts.revoke(ADMIN, "web9", None)

    fleet = desk.authority.fleet.at(joined)

    assert fleet is not None
    assert fleet.hosts.keys() == {"web9"}
    assert fleet.members("web") == ["web9"]
    assert fleet.public_key("web9") == host_key("web9").public_key
    assert desk.authority.fleet.public_key("web9") is None


async def test_what_a_host_was_is_kept_for_as_long_as_a_preview_holds() -> None:
    clock = ManualClock()
    desk = Desk(clock=clock, log=MemoryLog(clock))
    await desk.register("web9")
    first = await desk.hosts.set_labels(ADMIN, "web9", {"n": "first"})
    for n in range(200):
        desk.clock.advance(PREVIEW_S / 10)
        await desk.hosts.set_labels(ADMIN, "web9", {"n": str(n)})
        asked = len(desk.log.rows)

    desk.clock.advance(PREVIEW_S)
    await desk.register("web1")
    then = desk.authority.fleet.at(asked)

    assert then is not None
    assert then.hosts["web9"].labels == {"n": "199"}
    assert desk.authority.fleet.at(first) is None
    assert len(desk.authority.fleet._versions["web9"]) < 50
    beside = desk.beside()
    await beside.authority.refresh()
    assert beside.authority.fleet == desk.authority.fleet


async def test_enrolment_tokens_that_ended_long_ago_are_forgotten_and_their_rows_let_nobody_in() -> None:
    desk = await a_desk()
    who = {"hostname": "web1", "public_key": host_key("web1").public_key}
    old = [
        await desk.enrolment.create_token(ADMIN, hostname=None, groups=(), expires_in=60 + number)
        for number in range(20)
    ]
    await desk.enrolment.revoke_token(ADMIN, old[0].token_id)
    genuine = [row for row in desk.log.rows if row.kind == "enrolment_token.created"]
    desk.clock.advance(2 * KEPT_S)

    new = await desk.enrolment.create_token(ADMIN, hostname=None, groups=(), expires_in=60)

    assert list(desk.authority.enrolment.tokens) == [new.token_id]
    for row in genuine:
        desk.log.rows.append(row._replace(seq=len(desk.log.rows) + 1))
    for token in old:
        with pytest.raises(NotSignedInError):
            await desk.enrolment.begin(token=token.text, **who)
    beside = desk.beside()
    assert await beside.enrolment.begin(token=new.text, **who)
    assert beside.authority.refused == 0
    assert len(beside.authority.enrolment.tokens) < len(old)


async def test_a_long_history_is_read_page_by_page_past_what_gives_no_authority() -> None:
    desk = Desk()
    denied = access.AccessDenied(denial_id="d", actor="ada", action="tasks.run", resource="targets")
    for n in range(PAGE + 5):
        desk.insert(denied)
        if n % 2:
            desk.insert(a_registration(f"h{n}"), desk.keyring.active)

    assert await desk.authority.refresh() == len(desk.log.rows)

    assert len(desk.authority.fleet.hosts) == (PAGE + 5) // 2
    assert desk.authority.refused == 0


def test_every_kind_that_gives_authority_is_read_but_tasks_which_are_verified_one_by_one() -> None:
    signed = {event.KIND for event in EXAMPLES if event.GIVES_AUTHORITY}

    of_tasks = {"accepted", "cancel_requested", "paused", "resumed", "approved", "rollout_stopped"}
    assert signed - KINDS == {"execution.released", *(f"task.{what}" for what in of_tasks)}


async def test_a_replica_learns_what_another_decided_and_outlives_a_log_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authority, "RETRY_S", 0.01)
    desk = await a_desk()
    beside = desk.beside()
    stop = asyncio.Event()
    outages = iter([True, True])

    class Flaky(Authority):
        async def refresh(self) -> int:
            if next(outages, False):
                raise StorageUnavailableError("away")
            position = await super().refresh()
            stop.set()
            return position

    flaky = Flaky(beside.log, beside.keyring)
    async with asyncio.timeout(10):
        await flaky.run(stop)

    assert flaky.access.users["ada"] == desk.authority.access.users["ada"]


def test_a_principal_of_an_unknown_role_may_nothing() -> None:
    assert Principal(username="x", role="wizard").permissions == frozenset()


async def test_the_head_is_what_the_authority_stands_at() -> None:
    desk = await a_desk()

    assert await desk.authority.refresh() == (await desk.log.head(EVENT)).seq
