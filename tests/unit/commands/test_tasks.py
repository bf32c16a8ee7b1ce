from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.commands.guard import Guard
from control_plane.commands.previews import PREVIEW_S, PreviewId, TargetChangedError, preview
from control_plane.commands.rules import Decision
from control_plane.commands.targets import MAX_HOSTS, All, Excluded, FrozenList, Group, Hosts, OneHost
from control_plane.commands.tasks import (
    CreateTask,
    RequirePreview,
    decide_create,
    message_of,
    new_task_id,
    verify_authorisation,
)
from control_plane.errors import RefusedError
from control_plane.events import registry
from control_plane.events.envelope import StoredEvent
from control_plane.events.tasks import TaskAccepted
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.messages import parse_command
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE, EVENT, SigningKey
from tests.support.events import AT, stored
from tests.support.fleet import CONTROL_PLANE_KEY, a_request

HARMLESS: Final = Guard(1, ())
ALLOWED: Final = Decision(action="tasks.run", allowed=True, rules=("role:operator",))
MANY: Final = Guard(2, ("more than 10 hosts",))
RISKY: Final = Guard(3, ("all hosts",))
KEYS: Final = {CONTROL_PLANE_KEY.key_id: CONTROL_PLANE_KEY.public_key}


def a_list(*hosts: str, as_of: int = 9, excluded: tuple[Excluded, ...] = ()) -> FrozenList:
    return FrozenList(hosts=hosts, basic=(), excluded=excluded, as_of=as_of)


def decide(
    request: CreateTask,
    frozen: FrozenList | None = None,
    guard: Guard = HARMLESS,
    *,
    require_preview: RequirePreview = "off",
    previewed: FrozenList | None = None,
    now_s: int = AT,
) -> TaskAccepted:
    return decide_create(
        request,
        frozen or a_list("web1", "web2"),
        guard,
        actor="ada",
        now_s=now_s,
        require_preview=require_preview,
        previewed=previewed,
    )


def refusal(request: CreateTask, frozen: FrozenList | None = None, guard: Guard = HARMLESS, **given: object) -> str:
    with pytest.raises(RefusedError) as refused:
        decide(request, frozen, guard, **given)  # type: ignore[arg-type]
    return refused.value.code


def authorised(task: TaskAccepted, *, tag: str = AUTHORISATION, key: SigningKey = CONTROL_PLANE_KEY) -> StoredEvent:
    signature = key.sign(tag, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=task.body())
    return stored(task.to_new_event(actor="ada", signature=signature, key_id=key.key_id))


# --- what is accepted


def test_the_largest_task_there_may_be_can_be_read_again() -> None:
    names = tuple(f"h{number:05}.example.com" for number in range(MAX_HOSTS))
    frozen = FrozenList(hosts=names, basic=names, excluded=(), as_of=9)

    task = decide(a_request("t1", Hosts(names)), frozen)

    assert registry.decode(stored(task.to_new_event())) == task


def test_a_task_that_could_not_be_read_again_is_not_accepted() -> None:
    names = tuple(f"h{number:05}" for number in range(MAX_HOSTS))
    frozen = FrozenList(hosts=names, basic=names, excluded=(), as_of=9)
    env = {f"k{number}": "" for number in range(10_000)}

    assert decide(a_request("t1", All(), env=env), frozen)
    assert refusal(a_request("t1", Hosts(names), env=env), frozen) == "task_too_large"


def test_a_task_has_what_was_asked_for_whom_by_whom_and_until_when() -> None:
    task = decide(a_request("t1", OneHost("web1"), command="ls -l", reason="look", expires_in=60), a_list("web1"))

    assert task.request == {
        "target": {"host": "web1"},
        "command": "ls -l",
        "timeout": 30,
        "user": "root",
        "when_offline": "queue",
        "expires_in": 60,
        "reason": "look",
    }
    assert (task.hosts, task.as_of, task.actor) == (("web1",), 9, "ada")
    assert (task.accepted_at, task.expires_at) == (AT, AT + 60)
    assert task.guard == {"level": 1, "rules": []}


def test_a_list_of_arguments_is_also_a_quoted_line_for_people() -> None:
    task = decide(a_request(command="", argv=("printf", "%s", "a b")))

    assert message_of(task).command == "printf %s 'a b'"
    assert message_of(task).argv == ("printf", "%s", "a b")


def test_the_message_is_exactly_what_was_authorised() -> None:
    request = a_request(env={"A": "1"}, cwd="/tmp", stdin="in\0put", timeout=5)
    task = verify_authorisation(authorised(decide(request)), KEYS)

    message = message_of(task)

    assert (message.task_id, message.command, message.timeout, message.user) == ("t1", "uptime", 5, "root")
    assert (message.env, message.cwd, message.stdin) == ({"A": "1"}, "/tmp", "in\0put")
    assert (message.timestamp, message.expires_at, message.as_of) == (AT, AT + 600, 9)
    assert parse_command(message.to_json()) == message


@given(
    first=st.sampled_from(["uptime", "id"]),
    second=st.sampled_from(["uptime", "id"]),
    preview_id=st.sampled_from([None, "9.1.ab"]),
)
def test_a_request_is_told_by_what_is_asked_alone(first: str, second: str, preview_id: str | None) -> None:
    """Its task_id is the key, and a preview is how it was decided on."""
    one = a_request("t1", command=first)
    other = a_request("t2", command=second, preview_id=preview_id)

    assert (one.sha256 == other.sha256) == (first == second)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"command": ""}, "command"),
        ({"command": "x" * 131_072}, "command"),
        ({"command": "a\0b"}, "command"),
        ({"command": "", "argv": ()}, "argv"),
        ({"command": "", "argv": ("",)}, "argv"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 86_401}, "timeout"),
        ({"user": "0"}, "user"),
        ({"user": "root; id"}, "user"),
        ({"env": {"1A": "x"}}, "env"),
        ({"env": {"A": "x" * 40_000}}, "env.A"),
        ({"cwd": ""}, "cwd"),
        ({"cwd": "relative"}, "cwd"),
        ({"stdin": "x" * 1_048_000, "command": "y" * 1000}, "bytes"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": 7 * 86_400 + 1}, "expires_in"),
        ({"reason": "two\nlines"}, "reason"),
        ({"reason": "\u202eevil"}, "reason"),
        ({"task_id": "a b"}, "task_id"),
    ],
)
def test_what_no_agent_would_read_is_refused_and_the_field_named(given: dict[str, object], field: str) -> None:
    with pytest.raises(RefusedError, match=field) as refused:
        decide(a_request(**given))  # type: ignore[arg-type]

    assert refused.value.code == "invalid_request"


@pytest.mark.parametrize("expires_in", [1, 600, 7 * 86_400])
def test_a_task_may_wait_for_at_most_seven_days(expires_in: int) -> None:
    assert decide(a_request(expires_in=expires_in)).expires_at == AT + expires_in


def test_a_target_without_hosts_is_refused_and_says_who_was_left_out() -> None:
    nobody = a_list(excluded=(Excluded(hostname="web3", reason="revoked"),))

    with pytest.raises(RefusedError, match=r"web3 \(revoked\)") as refused:
        decide(a_request(), nobody)

    assert refused.value.code == "no_host_matched"


def test_a_group_in_which_nobody_is_is_named() -> None:
    with pytest.raises(RefusedError, match="no host is in the group nope"):
        decide(a_request(target=Group("nope")), a_list())


def test_task_ids_are_uuids_that_sort_by_time() -> None:
    ids = [new_task_id(AT * 1_000_000 + n * 1000) for n in range(50)]

    assert sorted(ids) == ids
    assert len({id_[14] for id_ in ids}) == 1
    assert ids[0][14] == "7"
    assert ids[0][19] in "89ab"
    assert new_task_id(0) != new_task_id(0)


# --- previews and reasons


@pytest.mark.parametrize(
    ("setting", "guard", "asked", "code"),
    [
        ("off", RISKY, {}, None),
        ("guarded", HARMLESS, {}, None),
        ("guarded", MANY, {}, "preview_required"),
        ("guarded", RISKY, {"reason": "why"}, "preview_required"),
        ("always", HARMLESS, {}, "preview_required"),
        ("guarded", MANY, {"preview": True}, None),
        ("guarded", RISKY, {"preview": True}, "reason_required"),
        ("always", RISKY, {"preview": True}, "reason_required"),
        ("guarded", RISKY, {"preview": True, "reason": "why"}, None),
        ("always", HARMLESS, {"preview": True}, None),
    ],
)
def test_previews_and_reasons_are_asked_for_by_setting(
    setting: RequirePreview, guard: Guard, asked: dict[str, object], code: str | None
) -> None:
    frozen = a_list("web1")
    preview_id = preview(frozen, guard, now_s=AT, decision=ALLOWED).preview_id if asked.pop("preview", False) else None
    request = a_request(preview_id=preview_id, **asked)

    if code is None:
        assert decide(request, frozen, guard, require_preview=setting).guard == guard.to_json()
    else:
        assert refusal(request, frozen, guard, require_preview=setting) == code


def test_a_preview_holds_for_its_time_and_not_longer() -> None:
    frozen = a_list("web1")
    request = a_request(preview_id=preview(frozen, HARMLESS, now_s=AT, decision=ALLOWED).preview_id)

    assert decide(request, frozen, now_s=AT + PREVIEW_S)
    assert refusal(request, frozen, now_s=AT + PREVIEW_S + 1) == "preview_expired"


@pytest.mark.parametrize("preview_id", ["", "x", "1.2", "1.2.zz", "9." + "9" * 40 + "." + "a" * 64, "-1.5." + "a" * 64])
def test_a_preview_id_that_is_none_is_an_expired_one(preview_id: str) -> None:
    assert refusal(a_request(preview_id=preview_id)) == "preview_expired"


def test_a_changed_target_is_refused_naming_who_joined_and_who_left() -> None:
    before = a_list("web1", "web2", as_of=5)
    request = a_request(preview_id=preview(before, HARMLESS, now_s=AT, decision=ALLOWED).preview_id)

    with pytest.raises(TargetChangedError) as refused:
        decide(request, a_list("web2", "web3", "web4"), previewed=before)

    assert (refused.value.joined, refused.value.left) == (("web3", "web4"), ("web1",))
    assert refused.value.detail == "since the preview 2 joined (web3, web4) and 1 left (web1)"


def test_a_preview_id_carries_the_position_of_the_fleet() -> None:
    made = preview(a_list("web1", as_of=77), HARMLESS, now_s=AT, decision=ALLOWED)

    assert PreviewId.parse(made.preview_id).as_of == 77


# --- the authorisation


def test_an_authorised_task_is_what_was_decided() -> None:
    task = decide(a_request())

    assert verify_authorisation(authorised(task), KEYS) == task


def test_nothing_else_passes_for_an_authorisation() -> None:
    row, task = authorised(decide(a_request())), decide(a_request())
    other = SigningKey.generate()
    wider = replace(task, hosts=("web1", "web2", "db1"))

    forged = {
        "unsigned": row._replace(signature=None, key_id=None),
        "unknown key": authorised(task, key=other),
        "another's key under our name": authorised(task, key=other)._replace(key_id=CONTROL_PLANE_KEY.key_id),
        "a signature for something else": authorised(task, tag=EVENT),
        "another host in the list": row._replace(body=wider.body()),
        "another kind": row._replace(kind="task.cancel_requested"),
        "an unknown kind": row._replace(kind="task.approved"),
    }

    for forgery in forged.values():
        with pytest.raises((SignatureError, MalformedMessageError)):
            verify_authorisation(forgery, KEYS)
