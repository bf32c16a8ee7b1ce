from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from control_plane.commands.hosts import MAX_GROUPS
from control_plane.errors import InvalidFieldError, NotAllowedError, NotFoundError, RefusedError
from control_plane.events.envelope import NewEvent, Outcome
from control_plane.events.hosts import HostQuarantined
from tests.support.fleet import ADMIN, OPERATOR, Desk, host_key

WEAK_KEY = bytes(32)


async def test_a_registered_host_has_its_groups_with_the_position_of_each() -> None:
    desk = Desk()
    registered = await desk.register("web1", "web", "eu")

    changed = await desk.hosts.set_groups(ADMIN, "web1", ["web", "prod"])

    host = desk.authority.fleet.host("web1")
    assert dict(host.groups) == {"web": registered, "prod": changed}
    assert host.public_key == host_key("web1").public_key
    assert not host.is_enrolled


async def test_the_same_again_changes_nothing_and_answers_a_position_at_which_it_is_so() -> None:
    desk = Desk()
    first = await desk.register("web1", "web")

    assert await desk.register("web1", "web") == first
    assert await desk.hosts.set_groups(ADMIN, "web1", ["web"]) == first
    assert await desk.hosts.set_labels(ADMIN, "web1", {}) == first
    assert await desk.hosts.set_maintenance(ADMIN, "web1", False) == first
    assert await desk.hosts.assign(ADMIN, "web1", "web", member=True) == first
    assert desk.kinds() == ["host.registered"]


async def test_a_name_is_never_taken_over_and_free_again_once_retired() -> None:
    desk = Desk()
    await desk.register("web1")
    other = host_key("other").public_key

    with pytest.raises(RefusedError) as refused:
        await desk.hosts.register(ADMIN, hostname="web1", public_key=other, groups=[])
    assert refused.value.code == "host_exists"
    await desk.hosts.revoke(ADMIN, "web1", "stolen")
    with pytest.raises(RefusedError):
        await desk.register("web1")

    await desk.hosts.retire(ADMIN, "web1", "stolen")
    await desk.hosts.register(ADMIN, hostname="web1", public_key=other, groups=[])

    host = desk.authority.fleet.host("web1")
    assert (host.generation, host.public_key, host.status) == (2, other, "registered")


async def test_a_name_that_was_registered_again_is_another_machine_for_whatever_was_frozen_before() -> None:
    desk = Desk()
    first = await desk.register("web1")
    await desk.hosts.retire(ADMIN, "web1", None)
    assert not desk.authority.fleet.is_replaced("web1", first)

    second = await desk.register("web1")

    assert desk.authority.fleet.is_replaced("web1", first)
    assert desk.authority.fleet.is_replaced("web1", second - 1)
    assert not desk.authority.fleet.is_replaced("web1", second)
    assert not desk.authority.fleet.is_replaced("web2", first)


async def test_a_revoked_hosts_key_is_trusted_no_more() -> None:
    desk = Desk()
    await desk.register("web1")
    assert desk.authority.fleet.public_key("web1")

    await desk.hosts.revoke(ADMIN, "web1", None)

    assert desk.authority.fleet.public_key("web1") is None
    assert desk.authority.fleet.active() == []


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (
            lambda d: d.hosts.register(ADMIN, hostname="Web 1", public_key=host_key("a").public_key, groups=[]),
            "invalid",
        ),
        (lambda d: d.hosts.register(ADMIN, hostname="web2", public_key=WEAK_KEY, groups=[]), "weak_key"),
        (lambda d: d.hosts.set_groups(ADMIN, "web1", ["*"]), "invalid"),
        (lambda d: d.hosts.set_groups(ADMIN, "web1", [f"g{n}" for n in range(MAX_GROUPS + 1)]), "too_many_groups"),
        (lambda d: d.hosts.set_labels(ADMIN, "web1", {"a": "x\ny"}), "invalid"),
        (lambda d: d.hosts.set_labels(ADMIN, "web1", {str(n): "x" for n in range(65)}), "too_many_labels"),
        (lambda d: d.hosts.revoke(ADMIN, "web1", "x" * 257), "invalid"),
        (lambda d: d.hosts.revoke(ADMIN, "web9", None), "unknown_host"),
    ],
)
async def test_what_breaks_a_rule_is_refused_and_records_nothing(
    ask: Callable[[Desk], Awaitable[int]], code: str
) -> None:
    desk = Desk()
    await desk.register("web1")

    with pytest.raises(RefusedError) as refused:
        await ask(desk)

    assert refused.value.code.startswith(code)
    assert desk.kinds() == ["host.registered"]


async def test_several_changes_at_once_are_made_or_refused_together() -> None:
    desk = Desk()
    await desk.register("web1")
    too_many = {str(number): "x" for number in range(65)}

    for wrong in ({"labels": too_many}, {"labels": {"a": "x\ny"}}):
        with pytest.raises(RefusedError):
            await desk.hosts.change(ADMIN, "web1", groups=["web"], maintenance=True, **wrong)
    assert desk.kinds() == ["host.registered"]

    seq = await desk.hosts.change(ADMIN, "web1", groups=["web"], labels={"a": "b"}, maintenance=True)

    host = desk.authority.fleet.host("web1")
    assert (list(host.groups), host.labels, host.maintenance, host.changed_seq) == (["web"], {"a": "b"}, True, seq)
    assert desk.kinds()[1:] == ["host.groups_changed", "host.labels_changed", "host.maintenance_changed"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda d: d.hosts.register(OPERATOR, hostname="w", public_key=host_key("w").public_key, groups=[]),
        lambda d: d.hosts.set_groups(OPERATOR, "web1", ["prod"]),
        lambda d: d.hosts.assign(OPERATOR, "web1", "prod", member=True),
        lambda d: d.hosts.set_labels(OPERATOR, "web1", {"a": "b"}),
        lambda d: d.hosts.set_maintenance(OPERATOR, "web1", True),
        lambda d: d.hosts.revoke(OPERATOR, "web1", None),
        lambda d: d.hosts.retire(OPERATOR, "web1", None),
        lambda d: d.hosts.lift_quarantine(OPERATOR, "web1", "mine"),
    ],
)
async def test_an_operator_changes_no_host_and_each_attempt_is_recorded(ask: Callable[[Desk], Awaitable[int]]) -> None:
    desk = Desk()
    await desk.register("web1")

    with pytest.raises(NotAllowedError):
        await ask(desk)

    assert desk.kinds() == ["host.registered", "access.denied"]


def in_quarantine(hostname: str, key: str | None = None) -> HostQuarantined:
    return HostQuarantined(
        hostname=hostname,
        heartbeat_seq=7,
        key_id=host_key(key or hostname).key_id,
        reason="its journal went back in time",
        before="200",
        after="100",
    )


async def test_a_host_is_in_quarantine_until_that_is_lifted_and_its_other_changes_go_on() -> None:
    desk = Desk()
    await desk.register("web1")
    before = desk.authority.fleet.host("web1").changed_seq
    await desk.handling.record_new(in_quarantine("web1"), actor="presence")
    fleet = desk.authority.fleet
    assert fleet.host("web1").changed_seq == before, "who decides on the host just now is in nobody's way"
    await desk.hosts.set_labels(ADMIN, "web1", {"site": "a"})
    assert (fleet.quarantined(), fleet.is_quarantined("web1")) == (["web1"], True)

    with pytest.raises(InvalidFieldError):
        await desk.hosts.lift_quarantine(ADMIN, "web1", "two\nlines")
    lifted = await desk.hosts.lift_quarantine(ADMIN, "web1", "restored on purpose")
    again = await desk.hosts.lift_quarantine(ADMIN, "web1", "once more")

    assert (fleet.quarantined(), fleet.host("web1").changed_seq, again) == ([], lifted, lifted)
    assert fleet.host("web1").labels == {"site": "a"}
    assert desk.kinds()[1:] == ["host.quarantined", "host.labels_changed", "host.quarantine_lifted"]


async def test_another_machine_of_that_name_is_not_in_quarantine() -> None:
    desk = Desk()
    await desk.register("web1")
    await desk.handling.record_new(in_quarantine("web1"), actor="presence")
    await desk.hosts.retire(ADMIN, "web1", None)
    await desk.hosts.register(ADMIN, hostname="web1", public_key=host_key("other").public_key, groups=[])
    assert not desk.authority.fleet.is_quarantined("web1")

    await desk.handling.record_new(replace(in_quarantine("web1"), heartbeat_seq=8), actor="presence")
    assert not desk.authority.fleet.is_quarantined("web1"), "the heartbeat was the first one's"
    await desk.handling.record_new(replace(in_quarantine("web1", "other"), heartbeat_seq=9), actor="presence")
    assert desk.authority.fleet.is_quarantined("web1")


async def test_of_two_who_change_a_host_at_once_both_have_their_effect() -> None:
    """The second decided on what no longer stood: the log refuses that, and it decides again."""
    desk = Desk()
    await desk.register("web1")
    beside = desk.beside()
    await beside.authority.refresh()
    append = beside.log.append

    async def overtaken(events: list[NewEvent]) -> list[Outcome]:
        beside.log.append = append  # type: ignore[method-assign]
        await desk.hosts.set_labels(ADMIN, "web1", {"site": "a"})
        return await append(events)

    beside.log.append = overtaken  # type: ignore[method-assign, assignment]
    await beside.hosts.assign(ADMIN, "web1", "web", member=True)

    host = beside.authority.fleet.host("web1")
    assert (dict(host.labels), list(host.groups)) == ({"site": "a"}, ["web"])
    assert beside.authority.refused == 0


async def test_a_host_that_never_was_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        await Desk().hosts.set_maintenance(ADMIN, "web1", True)
