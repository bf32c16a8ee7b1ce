"""Retries: a new task that does once more what another one did, on those of its hosts that are in chosen states."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from control_plane.commands.grammar import invalid
from control_plane.commands.hosts import FleetState
from control_plane.commands.rollouts import parse_rollout
from control_plane.commands.targets import Hosts, in_words
from control_plane.commands.tasks import CreateTask
from control_plane.errors import RefusedError
from control_plane.events.tasks import TERMINAL, TaskAccepted
from control_plane_wire import strict_json
from control_plane_wire.strict_json import Json, JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTask:
    """What was asked for.

    Attributes:
        task_id: of the new task.
        retry_of: the task that it repeats.
        states: in one of which a host has ended.
        hosts: if given, none but these; left out, none that has succeeded after all.
    """

    task_id: str
    retry_of: str
    states: frozenset[str]
    hosts: tuple[str, ...] | None = None
    reason: str | None = None
    preview_id: str | None = None

    @property
    def sha256(self) -> str:
        """Tells a repeat from another request, whatever has become of the hosts meanwhile."""
        asked: JsonObject = {"retry_of": self.retry_of, "states": list[Json](sorted(self.states))}
        if self.hosts is not None:
            asked["hosts"] = list[Json](sorted(set(self.hosts)))
        if self.reason is not None:
            asked["reason"] = self.reason
        return hashlib.sha256(strict_json.canonical(asked)).hexdigest()


def decide_retry(
    request: RetryTask,
    first: TaskAccepted,
    states: Mapping[str, str],
    fleet: FleetState,
    *,
    succeeded_late: Collection[str] = (),
) -> CreateTask:
    """The task to create.

    Args:
        states: of the first task's executions, by hostname.
        succeeded_late: hosts on which it has succeeded, though that came after another outcome had been said. It runs
            there a second time only for somebody who names them.

    Raises:
        RefusedError: `invalid_request`, `not_to_retry` with the names of the hosts, `nothing_to_retry`,
            `host_replaced`.
    """
    if not request.states or not request.states <= TERMINAL:
        raise invalid("states", f"one or several of {', '.join(sorted(TERMINAL))}")
    chosen = ended = [name for name in first.hosts if states.get(name) in request.states]
    if request.hosts is not None:
        chosen = _narrowed(request.hosts, first, states, ended)
    elif late := set(succeeded_late).intersection(ended):
        chosen = [name for name in ended if name not in late]
        if not chosen:
            raise RefusedError("nothing_to_retry", f"succeeded after all, name it to run it again: {in_words(late)}")
    if not chosen:
        raise RefusedError("nothing_to_retry", f"no host of {first.task_id} is {' or '.join(sorted(request.states))}")
    if replaced := [name for name in chosen if fleet.is_replaced(name, first.as_of)]:
        raise RefusedError("host_replaced", f"another machine than then: {in_words(replaced)}")
    return _like(first, request, chosen)


def _narrowed(
    wanted: Collection[str], first: TaskAccepted, states: Mapping[str, str], chosen: Collection[str]
) -> list[str]:
    names, listed, may_be = sorted(set(wanted)), set(first.hosts), set(chosen)
    if wrong := [name for name in names if name not in may_be]:
        said = [f"{name} ({states.get(name, 'queued') if name in listed else 'no host of it'})" for name in wrong]
        raise RefusedError("not_to_retry", f"not among the hosts to retry: {in_words(said)}")
    return names


def _like(first: TaskAccepted, request: RetryTask, hostnames: Collection[str]) -> CreateTask:
    """What the first one was asked to do, for these hosts."""
    did = {name: first.request[name] for name in ("command", "timeout", "user", "when_offline", "expires_in")}
    repeated = ("env", "cwd", "stdin", "template", "template_seq", "parameters")
    more = {name: first.request[name] for name in repeated if name in first.request}
    argv, rollout = first.request.get("argv"), first.request.get("rollout")
    if isinstance(argv, list | tuple):
        more["argv"] = tuple(argv)  # type: ignore[assignment] # of texts, as they were accepted
    return CreateTask(
        task_id=request.task_id,
        target=Hosts(tuple(hostnames)),
        rollout=parse_rollout(rollout).afterwards if isinstance(rollout, dict) else None,
        reason=request.reason,
        preview_id=request.preview_id,
        retry_of=request.retry_of,
        asked_sha256=request.sha256,
        **did,  # type: ignore[arg-type] # of the types that they were accepted with
        **more,  # type: ignore[arg-type]
    )
