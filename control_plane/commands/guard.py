"""How carefully a command has to be confirmed: a reminder, no security border, since a shell has endless spellings."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from control_plane_wire.strict_json import JsonObject

RISKS: Final[Mapping[str, re.Pattern[str]]] = {
    "recursive delete at /": re.compile(r"\brm\s+(-\w+\s+)*-\w*[rR]\w*\s+(-\S+\s+)*/(\s|\*|$)"),
    "makes a file system": re.compile(r"\bmkfs(\.\w+)?\b"),
    "writes to a device": re.compile(r"\bdd\b.*\bof=/dev/"),
    "restarts or stops the machine": re.compile(r"\b(reboot|shutdown|poweroff|halt)\b|\binit\s+[06]\b"),
    "empties the firewall": re.compile(r"\b(iptables\s+(-F|--flush)|nft\s+flush\s+ruleset)\b"),
    "stops ssh or the agent": re.compile(r"\bstop\b.*\b(sshd?|control-plane-agent)\b"),
    "removes users": re.compile(r"\b(userdel|deluser)\b"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardLimits:
    """From how many hosts on a command is confirmed."""

    many_hosts: int = 10


@dataclass(frozen=True, slots=True)
class Guard:
    """Level 1: runs. 2: is confirmed. 3: the number of hosts is typed and a reason given. `rules` says why."""

    level: int
    rules: tuple[str, ...]

    def to_json(self) -> JsonObject:
        return {"level": self.level, "rules": list(self.rules)}


def assess(command: str, *, hosts: int, fleet: int, is_all: bool, limits: GuardLimits) -> Guard:
    """The guard of a command line for that many hosts of a fleet."""
    if hosts <= limits.many_hosts:
        return Guard(1, ())
    rules = [name for name, pattern in RISKS.items() if pattern.search(command)]
    if is_all:
        rules.append("all hosts")
    elif hosts * 2 > fleet:
        rules.append("more than half of the fleet")
    if rules:
        return Guard(3, tuple(rules))
    return Guard(2, (f"more than {limits.many_hosts} hosts",))
