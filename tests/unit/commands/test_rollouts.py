"""What a rollout may say, and what it comes to for so many hosts."""

import pytest

from control_plane.commands.rollouts import MAX_CANARIES, Rollout, check_canary, parse_rollout
from control_plane.errors import RefusedError
from control_plane_wire.strict_json import JsonObject

HOSTS = ("db1", "web1", "web2")


def test_what_is_left_out_is_written_as_what_it_stands_for() -> None:
    assert parse_rollout({}).to_json() == {"max_concurrency": "100%", "max_errors": 0}


@pytest.mark.parametrize(
    "said",
    [
        {"max_concurrency": 10, "max_errors": "5%", "canary": ["web1", "db1"], "wait": "approve"},
        {"max_concurrency": "1%", "max_errors": 3, "canary": 1, "wait": 0},
        {"max_concurrency": "100%", "max_errors": 0},
    ],
)
def test_what_was_said_is_what_is_read_again(said: JsonObject) -> None:
    assert parse_rollout(said).to_json() == said


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"max_concurrency": 0}, "rollout.max_concurrency"),
        ({"max_concurrency": 20_001}, "rollout.max_concurrency"),
        ({"max_concurrency": "0%"}, "rollout.max_concurrency"),
        ({"max_concurrency": "101%"}, "rollout.max_concurrency"),
        ({"max_concurrency": "10 %"}, "rollout.max_concurrency"),
        ({"max_concurrency": "\u0661%"}, "rollout.max_concurrency"),
        ({"max_concurrency": True}, "rollout.max_concurrency"),
        ({"max_concurrency": 1.0}, "rollout.max_concurrency"),
        ({"max_concurrency": None}, "rollout.max_concurrency"),
        ({"max_errors": -1}, "rollout.max_errors"),
        ({"max_errors": "5"}, "rollout.max_errors"),
        ({"canary": 0}, "rollout.canary"),
        ({"canary": True}, "rollout.canary"),
        ({"canary": []}, "rollout.canary"),
        ({"canary": ["web1", "WEB1"]}, "rollout.canary"),
        ({"canary": ["web 1"]}, "rollout.canary"),
        ({"canary": "web1"}, "rollout.canary"),
        ({"canary": [f"web{number}" for number in range(MAX_CANARIES + 1)]}, "rollout.canary"),
        ({"canary": 1, "wait": -1}, "rollout.wait"),
        ({"canary": 1, "wait": True}, "rollout.wait"),
        ({"canary": 1, "wait": "approved"}, "rollout.wait"),
        ({"wait": 10}, "rollout.wait"),
        ({"batch": 3}, "rollout.batch"),
    ],
)
def test_what_is_no_rollout_is_refused_and_the_field_named(said: JsonObject, field: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse_rollout(said)

    assert refused.value.code == "invalid_request"
    assert refused.value.detail.startswith(f"{field} ")


@pytest.mark.parametrize(
    ("said", "targets", "window", "errors"),
    [
        (Rollout(), 7, 7, 0),
        (Rollout(max_concurrency="10%", max_errors="10%"), 7, 1, 0),
        (Rollout(max_concurrency="10%", max_errors="10%"), 25, 2, 2),
        (Rollout(max_concurrency=10, max_errors=3), 7, 10, 3),
    ],
)
def test_a_percentage_is_of_the_hosts_rounded_down_and_the_window_is_never_nothing(
    said: Rollout, targets: int, window: int, errors: int
) -> None:
    assert (said.window(targets), said.errors(targets)) == (window, errors)


def test_a_canary_that_is_no_host_of_the_task_is_named() -> None:
    with pytest.raises(RefusedError, match=r"rollout.canary is not among the hosts of the task: web9$"):
        check_canary(Rollout(canary=("web1", "web9")), HOSTS)


@pytest.mark.parametrize("canary", [None, 1, 3, ("web2", "db1", "web1")])
def test_a_canary_of_hosts_of_the_task_may_be(canary: tuple[str, ...] | int | None) -> None:
    check_canary(Rollout(canary=canary), HOSTS)


def test_a_canary_of_more_hosts_than_there_are_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"rollout.canary is not between 1 and 3$"):
        check_canary(Rollout(canary=4), HOSTS)


def test_a_retry_keeps_the_limits_and_has_no_canary() -> None:
    said = Rollout(max_concurrency=2, max_errors="10%", canary=1, wait="approve")

    assert said.afterwards == Rollout(max_concurrency=2, max_errors="10%")
