from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest

from control_plane.commands.access import Principal
from control_plane.commands.ports import Presence
from control_plane.commands.previews import PreviewId, TargetChangedError
from control_plane.commands.targets import Group, Hosts, OneHost, Query
from control_plane.commands.tasks import verify_authorisation
from control_plane.errors import KeyConflictError, NotAllowedError, NotFoundError, RefusedError
from control_plane.events.envelope import Key, LogName
from control_plane.events.tasks import ExecutionCancelled
from control_plane_wire.failpoints import Failpoints
from tests.support.clock import ManualClock
from tests.support.fleet import ADMIN, OPERATOR, VIEWER, Desk, a_request
from tests.support.memory_log import MemoryLog


class Recording(Failpoints):
    def __init__(self) -> None:
        super().__init__()
        self.hits: list[str] = []

    def hit(self, name: str) -> None:
        self.hits.append(name)


async def a_desk(**given: object) -> Desk:
    desk = Desk(**given)  # type: ignore[arg-type]
    await desk.register("web1", "web")
    await desk.register("web2", "web")
    desk.presences.rows = {name: Presence(state="online", basic=False) for name in ("web1", "web2", "web3")}
    return desk


async def test_an_accepted_task_is_authorised_over_the_frozen_list_before_it_is_in_the_log() -> None:
    failpoints = Recording()
    desk = await a_desk(failpoints=failpoints)

    accepted = await desk.tasks.create(OPERATOR, a_request("t1", Group("web")))

    row = desk.log.rows[-1]
    task = verify_authorisation(row, desk.keyring.public_keys)
    assert (accepted.seq, accepted.created) == (row.seq, True)
    assert (task.hosts, task.actor, task.as_of) == (("web1", "web2"), "ada", 2)
    assert (row.actor, row.task_id) == ("ada", "t1")
    assert failpoints.hits == ["accept.before_commit", "accept.after_commit"]


async def test_the_same_request_again_is_the_same_task_whatever_became_of_the_fleet() -> None:
    desk = await a_desk()
    request = a_request("t1", OneHost("web1"))
    first = await desk.tasks.create(OPERATOR, request)
    await desk.hosts.retire(ADMIN, "web1", None)
    desk.clock.advance(3600)

    again = await desk.tasks.create(OPERATOR, request)

    assert (again.seq, again.created) == (first.seq, False)
    assert desk.kinds().count("task.accepted") == 1


async def test_an_id_that_was_made_just_now_is_looked_up_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await a_desk()
    looked_up: list[Key] = []
    find = desk.log.find

    async def counted(log: LogName, keys: Collection[Key]) -> dict[Key, int]:
        looked_up.extend(keys)
        return await find(log, keys)

    monkeypatch.setattr(desk.log, "find", counted)

    accepted = await desk.tasks.create(OPERATOR, a_request("t1"), is_new=True)

    assert (accepted.created, looked_up) == (True, [])
    with pytest.raises(KeyConflictError):  # it was no new one after all
        await desk.tasks.create(OPERATOR, a_request("t1", command="id"), is_new=True)


@pytest.mark.parametrize(
    ("principal", "command"), [(OPERATOR, "id"), (Principal(username="bob", role="operator"), "uptime")]
)
async def test_another_body_or_another_persons_use_of_an_id_is_a_conflict(principal: Principal, command: str) -> None:
    desk = await a_desk()
    first = await desk.tasks.create(OPERATOR, a_request("t1"))

    with pytest.raises(KeyConflictError) as refused:
        await desk.tasks.create(principal, a_request("t1", command=command))

    assert (refused.value.code, refused.value.seq) == ("key_conflict", first.seq)


async def test_a_race_for_one_id_is_decided_by_the_log() -> None:
    """Both found no such task; the key of the log lets one of them stand."""
    desk = await a_desk()
    beside = desk.beside()

    async def blind(_log: object, _keys: object) -> dict[object, int]:
        return {}

    first = await desk.tasks.create(OPERATOR, a_request("t1"))
    beside.log.find = blind  # type: ignore[method-assign, assignment]

    assert (await beside.tasks.create(OPERATOR, a_request("t1"))).seq == first.seq
    with pytest.raises(KeyConflictError):
        await beside.tasks.create(OPERATOR, a_request("t1", command="id"))


async def test_a_denied_request_leaves_an_event_and_no_task() -> None:
    desk = await a_desk()

    with pytest.raises(NotAllowedError):
        await desk.tasks.create(VIEWER, a_request("t1"))

    row = desk.log.rows[-1]
    assert (row.kind, row.actor) == ("access.denied", "eve")
    assert b'"action":"tasks.run"' in row.body
    assert b'"address":"127.0.0.1"' in row.body
    assert "task.accepted" not in desk.kinds()


async def test_a_named_host_that_is_not_there_refuses_the_task() -> None:
    desk = await a_desk()
    await desk.hosts.revoke(ADMIN, "web2", None)

    for name, code in (("web9", "unknown_host"), ("web2", "host_not_active")):
        with pytest.raises(RefusedError, match=name) as refused:
            await desk.tasks.create(OPERATOR, a_request("t1", Hosts(("web1", name))))
        assert refused.value.code == code


async def test_a_preview_shows_what_creating_would_freeze() -> None:
    desk = await a_desk()
    await desk.hosts.revoke(ADMIN, "web2", None)

    shown = await desk.tasks.preview(OPERATOR, Group("web"), "reboot")
    accepted = await desk.tasks.create(OPERATOR, a_request("t1", Group("web"), preview_id=shown.preview_id))

    task = verify_authorisation(desk.log.rows[accepted.seq - 1], desk.keyring.public_keys)
    assert task.hosts == shown.frozen.hosts == ("web1",)
    assert [(host.hostname, host.reason) for host in shown.frozen.excluded] == [("web2", "revoked")]
    assert shown.guard.level == 3


async def test_who_joined_and_left_since_a_preview_is_named_by_any_replica() -> None:
    desk = await a_desk()
    shown = await desk.tasks.preview(OPERATOR, Group("web"), "uptime")
    await desk.register("web3", "web")
    await desk.hosts.assign(ADMIN, "web1", "web", member=False)

    with pytest.raises(TargetChangedError) as refused:
        await desk.beside().tasks.create(OPERATOR, a_request("t1", Group("web"), preview_id=shown.preview_id))

    assert (refused.value.joined, refused.value.left) == (("web3",), ("web1",))


async def test_a_preview_of_long_ago_is_no_better_for_saying_that_it_is_not() -> None:
    clock = ManualClock()
    desk = await a_desk(clock=clock, log=MemoryLog(clock))
    shown = await desk.tasks.preview(OPERATOR, Group("web"), "uptime")
    for number in range(30):
        desk.clock.advance(60)
        await desk.hosts.set_labels(ADMIN, "web1", {"n": str(number)})
    same = replace(PreviewId.parse(shown.preview_id), expires_at=10**11)
    other = replace(same, hosts_sha256="0" * 64)

    assert desk.authority.fleet.at(same.as_of) is None
    with pytest.raises(TargetChangedError) as refused:
        await desk.tasks.create(OPERATOR, a_request("t1", Group("web"), preview_id=str(other)))
    assert (refused.value.joined, refused.value.left) == ((), ())
    assert (await desk.tasks.create(OPERATOR, a_request("t1", Group("web"), preview_id=str(same)))).created


async def test_a_change_that_leaves_the_target_as_it_was_leaves_the_preview_good() -> None:
    desk = await a_desk()
    shown = await desk.tasks.preview(OPERATOR, Group("web"), "uptime")
    await desk.register("db1", "db")

    assert (await desk.tasks.create(OPERATOR, a_request("t1", Group("web"), preview_id=shown.preview_id))).created


async def test_cancelling_twice_is_one_signed_event() -> None:
    desk = await a_desk()
    await desk.tasks.create(OPERATOR, a_request("t1"))

    first = await desk.tasks.cancel(OPERATOR, "t1", "wrong hosts")
    again = await desk.tasks.cancel(ADMIN, "t1", None)

    assert first == again
    desk.keyring.verify_event(desk.log.rows[first - 1])


async def test_what_is_unknown_or_finished_is_not_cancelled() -> None:
    desk = await a_desk()
    await desk.tasks.create(OPERATOR, a_request("t1", OneHost("web1")))
    ended = ExecutionCancelled(task_id="t1", hostname="web1", reason="before it was sent")
    await desk.log.append([ended.to_new_event()])

    with pytest.raises(NotFoundError):
        await desk.tasks.cancel(OPERATOR, "t2", None)
    with pytest.raises(RefusedError) as refused:
        await desk.tasks.cancel(OPERATOR, "t1", None)

    assert refused.value.code == "task_finished"


async def test_a_viewer_cancels_nothing() -> None:
    desk = await a_desk()
    await desk.tasks.create(OPERATOR, a_request("t1"))

    with pytest.raises(NotAllowedError):
        await desk.tasks.cancel(VIEWER, "t1", None)

    assert desk.kinds()[-1] == "access.denied"


async def test_a_host_that_joins_while_a_task_is_decided_is_not_frozen_at_a_position_before_it() -> None:
    """Its agent would refuse a fan-out that is older than its own registration."""
    desk = await a_desk()
    presences = desk.presences.presences

    async def meanwhile(hostnames: Collection[str]) -> Mapping[str, Presence]:
        await desk.register("web3", "web")
        return await presences(hostnames)

    desk.presences.presences = meanwhile  # type: ignore[method-assign]
    accepted = await desk.tasks.create(OPERATOR, a_request("t1", Group("web")))

    task = verify_authorisation(desk.log.rows[accepted.seq - 1], desk.keyring.public_keys)
    assert task.hosts == ("web1", "web2", "web3")
    assert task.as_of >= desk.authority.fleet.hosts["web3"].registered_seq


async def test_a_query_is_frozen_to_the_hosts_of_that_moment_and_stays_as_it_was_asked() -> None:
    desk = await a_desk()
    request = a_request("t1", Query("Web state:online"))
    desk.presences.rows["web2"] = Presence(state="offline", basic=False)

    first = await desk.tasks.create(OPERATOR, request)
    desk.presences.rows["web2"] = Presence(state="online", basic=False)
    again = await desk.tasks.create(OPERATOR, request)

    task = verify_authorisation(desk.log.rows[first.seq - 1], desk.keyring.public_keys)
    assert (task.hosts, task.request["target"]) == (("web1",), {"query": "Web state:online"})
    assert (again.seq, again.created) == (first.seq, False), "though it would find another one by now"


async def test_a_query_that_finds_nobody_is_refused() -> None:
    desk = await a_desk()

    with pytest.raises(RefusedError) as refused:
        await desk.tasks.create(OPERATOR, a_request("t1", Query("state:offline")))

    assert (refused.value.code, refused.value.detail) == ("no_host_matched", "the query finds no host")


@pytest.mark.parametrize("is_kept", [True, False])
async def test_what_a_query_finds_by_now_is_compared_with_what_it_found_at_the_preview(is_kept: bool) -> None:
    desk = await a_desk()
    target = Query("state:online")
    desk.presences.rows["web2"] = Presence(state="offline", basic=False)
    previewed = await desk.tasks.preview(OPERATOR, target, "uptime")
    request = replace(a_request("t1", target), preview_id=previewed.preview_id)
    if is_kept:
        desk.presences.before[previewed.frozen.as_of] = dict(desk.presences.rows)
    desk.presences.rows["web1"] = Presence(state="offline", basic=False)
    desk.presences.rows["web2"] = Presence(state="online", basic=False)

    with pytest.raises(TargetChangedError) as changed:
        await desk.tasks.create(OPERATOR, request)
    assert (changed.value.joined, changed.value.left) == ((("web2",), ("web1",)) if is_kept else ((), ()))

    desk.presences.rows["web1"] = Presence(state="online", basic=False)
    desk.presences.rows["web2"] = Presence(state="stale", basic=False)
    assert (await desk.tasks.create(OPERATOR, request)).created
