"""Which hosts somebody may read about: what `decide` says of each host, found out for all of them at once.

What a host out of that is, and what is about it, does not exist for whoever asks: neither to be read, nor to be aimed
at or acted on. Whose rules reach every host, as those of a role alone do, pays nothing for it.
"""

from collections.abc import Collection
from typing import Final, TypeAlias

from control_plane.commands.access import CONSOLE, Principal
from control_plane.commands.hosts import FleetState
from control_plane.commands.rules import BUILT_IN, Cover, Facts, RuleState

MOST_KEPT: Final = 4096  # answers; there are four for each session or token of somebody who reads

Names: TypeAlias = frozenset[str] | None
"""Hostnames; None: every host that there is, now and later."""


def readable(principal: Principal, action: str, rules: RuleState, fleet: FleetState) -> Names:
    """The hosts, in whatever state, on which somebody may do one of READING."""
    if action not in rules.permissions(principal):
        return frozenset()
    made = () if principal.username == CONSOLE.username else rules.rules.values()
    asked = Facts(hosts={}, number=1)
    applying = [rule for rule in (*BUILT_IN, *made) if rule.is_for(principal, action) and rule.applies(asked)]
    allows = [rule for rule in applying if rule.effect == "allow"]
    denies = [rule for rule in applying if rule.effect == "deny"]
    if not denies and any(rule.all_hosts for rule in allows):
        return None
    allowing, denying = Cover(allows), Cover(denies)
    return frozenset(
        name
        for name, host in fleet.hosts.items()
        if allowing.of(name, host.groups) and not denying.of(name, host.groups)
    )


def owner(principal: Principal) -> Principal:
    """The person behind a session or a token: what they see they may aim at, also by a token that reads nothing."""
    return Principal(username=principal.username, role=principal.role)


def within(names: Names, hostnames: Collection[str]) -> bool:
    """Whether all of these hosts are among those."""
    return names is None or names.issuperset(hostnames)


def seen(fleet: FleetState, names: Names) -> FleetState:
    """The fleet as somebody sees it who may read about these hosts; for looking at only."""
    if names is None:
        return fleet
    return FleetState({name: host for name, host in fleet.hosts.items() if name in names}, fleet.changed_seq)


class Readable:
    """What `readable` has answered, as long as neither the rules nor the hosts have changed."""

    def __init__(self) -> None:
        self._as_of = (0, 0)
        self._found: dict[tuple[Principal, str], Names] = {}
        self._same: dict[Names, Names] = {}  # people who may read about the same hosts have the same set

    def names(self, principal: Principal, action: str, rules: RuleState, fleet: FleetState) -> Names:
        as_of = (rules.changed_seq, fleet.changed_seq)
        if as_of != self._as_of or len(self._found) >= MOST_KEPT:
            self._as_of, self._found, self._same = as_of, {}, {}
        asked = (principal, action)
        if asked not in self._found:
            names = readable(principal, action, rules, fleet)
            self._found[asked] = self._same.setdefault(names, names)
        return self._found[asked]
