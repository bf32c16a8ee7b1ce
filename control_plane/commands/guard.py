"""How carefully a command has to be confirmed: a reminder, no security border, since a shell has endless spellings."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from control_plane_wire.strict_json import JsonObject

LOOKED_AT: Final = 4096  # characters of a command; patterns on much longer text could be made to take seconds

_STOP: Final = r"\b(stop|disable|mask|kill|pkill|killall)\b"
_LIFELINE: Final = r"\b(sshd?|control-plane-agent)\b"
RISKS: Final[Mapping[str, re.Pattern[str]]] = {
    "recursive delete at /": re.compile(
        r"\brm\b(?=[^;|&]*\s(-\w*[rR]\w*|--recursive)\b)[^;|&]*\s[\"']?/+[*.]?[\"']?\s*($|[\s;|&])"
    ),
    "makes a file system": re.compile(r"\bmkfs(\.\w+)?\b"),
    "writes to a device": re.compile(r"\bdd\b.*\bof=/dev/|>\s*/dev/(sd|vd|xvd|nvme|mmcblk|disk)"),
    "restarts or stops the machine": re.compile(r"\b(reboot|shutdown|poweroff|halt)\b|\b(init|telinit)\s+[06]\b"),
    "empties the firewall": re.compile(r"\bip6?tables\b.*\s(-F|--flush)\b|\bnft\s+flush\b|\bufw\s+(disable|reset)\b"),
    "stops ssh or the agent": re.compile(rf"{_STOP}.*{_LIFELINE}|\bservice\s+{_LIFELINE}\s+stop\b"),
    "removes users": re.compile(r"\b(userdel|deluser)\b"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardLimits:
    """Where the levels begin: more than `many_hosts`, and of those more than `fleet_fraction` of the fleet."""

    many_hosts: int = 10
    fleet_fraction: float = 0.5


@dataclass(frozen=True, slots=True)
class Guard:
    """Level 1: runs. 2: is confirmed. 3: the number of hosts is typed and a reason given. `rules` says why."""

    level: int
    rules: tuple[str, ...]

    def to_json(self) -> JsonObject:
        return {"level": self.level, "rules": list(self.rules)}


def assess(command: str, *, hosts: int, fleet: int, is_all: bool, limits: GuardLimits) -> Guard:
    """The guard of a command line for that many hosts of a fleet; a risky one is level 3 even for one host."""
    rules = [name for name, pattern in RISKS.items() if pattern.search(command[:LOOKED_AT])]
    if hosts > limits.many_hosts:
        if is_all:
            rules.append("all hosts")
        elif hosts > fleet * limits.fleet_fraction:
            rules.append(f"more than {limits.fleet_fraction:.0%} of the fleet")
    if rules:
        return Guard(3, tuple(rules))
    if hosts > limits.many_hosts:
        return Guard(2, (f"more than {limits.many_hosts} hosts",))
    return Guard(1, ())
