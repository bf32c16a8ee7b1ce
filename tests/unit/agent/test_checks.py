"""What a host takes: only what is for it, in time, and within its own policy."""

import os
import pwd

import pytest

from control_plane_agent.checks import admit, opened
from control_plane_agent.policy import AnyPolicy, HostPolicy
from control_plane_wire.errors import SignatureError
from control_plane_wire.signing import SigningKey
from tests.support.agent import ROUTE, START_S, a_command, an_identity, sealed
from tests.support.fleet import CONTROL_PLANE_KEY


def refusal(route: str = ROUTE, *, now_s: int = START_S, policy: object = None, **changes: object) -> str | None:
    command = a_command(**changes)
    found = admit(command, route=route, identity=an_identity(), policy=policy or AnyPolicy(), now_s=now_s)  # type: ignore[arg-type]
    return None if found is None else f"{found.outcome}: {found.reason}"


def test_a_command_by_any_of_its_keys_is_taken() -> None:
    assert refusal() is None
    assert refusal("cmd.group.web", as_of=10) is None
    assert refusal("cmd.all", as_of=5) is None
    assert refusal("cmd.all") is None


@pytest.mark.parametrize("route", ["cmd.node.db1", "cmd.group.db", "cmd.node.web1", "cmd.all.x", ""])
def test_another_host_s_command_is_refused(route: str) -> None:
    assert refusal(route) == f"rejected: {route} is no key of this host"


def test_a_fan_out_from_before_the_membership_is_refused() -> None:
    for route, as_of in (("cmd.group.web", 9), ("cmd.all", 4)):
        assert refusal(route, as_of=as_of) == "rejected: the command is older than this host's membership"
    assert refusal(ROUTE, as_of=1) is None


def test_what_has_expired_is_not_started_with_some_skew_allowed() -> None:
    assert refusal(expires_at=START_S, now_s=START_S + 120) is None
    assert refusal(expires_at=START_S, now_s=START_S + 121) == "expired: expired 121 s ago"
    assert refusal(now_s=START_S + 600 + 121) == "expired: expired 121 s ago"
    assert refusal(expires_at=START_S + 604_801) == "rejected: it may start for longer than 7 days"


def test_the_host_s_own_policy_has_the_last_word() -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert refusal(policy=HostPolicy(), user=me) is None
    assert refusal(policy=HostPolicy(accounts=("deploy",)), user=me) == f"rejected: this host runs nothing as {me}"
    assert (
        refusal(policy=HostPolicy(), user="no-such-user") == "rejected: there is no account no-such-user on this host"
    )
    assert "longer than the 10 s" in (refusal(policy=HostPolicy(max_timeout_s=10), user=me) or "")


def test_only_the_control_plane_s_signature_for_this_very_key_counts() -> None:
    trusted = [CONTROL_PLANE_KEY.public_key]
    message = sealed(a_command())
    assert opened(message, ROUTE, trusted)["task_id"] == "task-1"

    for body, route, keys in (
        (message, "cmd.all", trusted),
        (message, "cmd.node.db1", trusted),
        (sealed(a_command(), key=SigningKey.generate()), ROUTE, trusted),
        (message, ROUTE, []),
    ):
        with pytest.raises(SignatureError):
            opened(body, route, keys)
