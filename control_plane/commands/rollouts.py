"""Rollouts: to how many hosts of a task at once, how many errors stop it, and who goes first."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from control_plane.commands.grammar import checked_name, checked_number, invalid
from control_plane.commands.targets import MAX_HOSTS, in_words
from control_plane_wire.messages import MAX_EXPIRY_S
from control_plane_wire.strict_json import Json, JsonObject

MAX_CANARIES: Final = 1000  # named ones; as a number they may be all
ROLLOUT_EXPIRY_S: Final = 86_400  # a rollout takes its time, and may wait for somebody
PERCENT: Final = re.compile(r"([1-9][0-9]?|100)%", re.ASCII)

_FIELDS: Final = frozenset({"max_concurrency", "max_errors", "canary", "wait"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How a task goes to its hosts, as it was asked for; what it comes to depends on how many hosts there are.

    Attributes:
        max_concurrency: hosts that it may be on at the same time, or the percentage of its hosts.
        max_errors: hosts on which it may fail, or the percentage.
        canary: hosts that go first, or how many.
        wait: seconds after the canary has succeeded, or `approve` where somebody has to resume it then.
    """

    max_concurrency: int | str = "100%"
    max_errors: int | str = 0
    canary: tuple[str, ...] | int | None = None
    wait: int | Literal["approve"] | None = None

    def to_json(self) -> JsonObject:
        """The canonical form, in which what was left out is what it stands for."""
        said: JsonObject = {"max_concurrency": self.max_concurrency, "max_errors": self.max_errors}
        if self.canary is not None:
            said["canary"] = self.canary if isinstance(self.canary, int) else list(self.canary)
        if self.wait is not None:
            said["wait"] = self.wait
        return said

    def window(self, targets: int) -> int:
        return max(1, _of(self.max_concurrency, targets))

    def errors(self, targets: int) -> int:
        return _of(self.max_errors, targets)

    def first(self, hosts: Sequence[str]) -> Sequence[str]:
        """Which of the frozen list are its canary."""
        return hosts[: self.canary] if isinstance(self.canary, int) else self.canary or ()

    @property
    def afterwards(self) -> "Rollout":
        """The same for a retry, which has no canary: its hosts are those on which it has been tried."""
        return Rollout(max_concurrency=self.max_concurrency, max_errors=self.max_errors)


def parse_rollout(value: Mapping[str, Json]) -> Rollout:
    """What a request or an accepted task says.

    Raises:
        RefusedError: `invalid_request`, naming the field.
    """
    if unknown := sorted(value.keys() - _FIELDS):
        raise invalid(f"rollout.{unknown[0]}", "a field that there is")
    canary, wait = _canary(value.get("canary")), _wait(value.get("wait"))
    if wait is not None and canary is None:
        raise invalid("rollout.wait", "possible without a canary to wait for")
    return Rollout(
        max_concurrency=_number("max_concurrency", value.get("max_concurrency", "100%"), least=1),
        max_errors=_number("max_errors", value.get("max_errors", 0), least=0),
        canary=canary,
        wait=wait,
    )


def check_canary(rollout: Rollout, hosts: Sequence[str]) -> None:
    """Raises RefusedError `invalid_request` where the canary is not among the hosts, and names who is not."""
    if isinstance(rollout.canary, int):
        checked_number("rollout.canary", rollout.canary, least=1, most=len(hosts))
    elif rollout.canary is not None:
        targets = set(hosts)
        if strangers := [name for name in rollout.canary if name not in targets]:
            raise invalid("rollout.canary", f"among the hosts of the task: {in_words(strangers)}")


def _number(field: str, value: Json, *, least: int) -> int | str:
    if isinstance(value, str) and PERCENT.fullmatch(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return checked_number(f"rollout.{field}", value, least=least, most=MAX_HOSTS)
    raise invalid(f"rollout.{field}", 'a number or a percentage from "1%" to "100%"')


def _canary(value: Json) -> tuple[str, ...] | int | None:
    match value:
        case None:
            return None
        case bool():
            pass
        case int():
            return checked_number("rollout.canary", value, least=1, most=MAX_HOSTS)
        case [*names] if 1 <= len(names) <= MAX_CANARIES:
            checked = tuple(checked_name("rollout.canary", str(name).lower()) for name in names)
            if len(set(checked)) == len(checked):
                return checked
    raise invalid("rollout.canary", f"a number, or 1 to {MAX_CANARIES} different hosts")


def _wait(value: Json) -> int | Literal["approve"] | None:
    match value:
        case None:
            return None
        case "approve":
            return "approve"
        case int() if not isinstance(value, bool):
            return checked_number("rollout.wait", value, least=0, most=MAX_EXPIRY_S)
    raise invalid("rollout.wait", 'seconds or "approve"')


def _of(number: int | str, targets: int) -> int:
    return number if isinstance(number, int) else targets * int(number.removesuffix("%")) // 100
