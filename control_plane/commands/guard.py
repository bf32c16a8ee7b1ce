"""How carefully a command has to be confirmed: a reminder, no security border, since a shell has endless spellings."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane_wire.strict_json import JsonObject

LOOKED_AT: Final = 4096  # characters of a command; patterns on much longer text could be made to take seconds

_LIFELINE: Final = r"\b(sshd?|control-plane-agent)\b"
# Each row: what must be there, in this order where there is a second. They are looked for one after the other, since a
# pattern of both, with anything in between, takes time that grows with the square of the text.
_LINES: Final = re.compile(r"\n")
_PARTS: Final = re.compile(r"[;|&]")
_DELETES: Final = re.compile(r"\brm\b")
_RECURSIVE: Final = re.compile(r"\s(-\w*[rR]\w*|--recursive)\b")
_ROOT: Final = re.compile(r"\s[\"']?/+[*.]?[\"']?(?!\S)")
_RISKS: Final[Sequence[tuple[str, re.Pattern[str], re.Pattern[str] | None]]] = [
    (name, re.compile(first), None if then is None else re.compile(then))
    for name, first, then in (
        ("makes a file system", r"\bmkfs(\.\w+)?\b", None),
        ("writes to a device", r"\bdd\b", r"\bof=/dev/"),
        ("writes to a device", r">\s*/dev/(sd|vd|xvd|nvme|mmcblk|disk)", None),
        ("restarts or stops the machine", r"\b(reboot|shutdown|poweroff|halt)\b|\b(init|telinit)\s+[06]\b", None),
        ("empties the firewall", r"\bip6?tables\b", r"\s(-F|--flush)\b"),
        ("empties the firewall", r"\bnft\s+flush\b|\bufw\s+(disable|reset)\b", None),
        ("stops ssh or the agent", r"\b(stop|disable|mask|kill|pkill|killall)\b", _LIFELINE),
        ("stops ssh or the agent", rf"\bservice\s+{_LIFELINE}\s+stop\b", None),
        ("removes users", r"\b(userdel|deluser)\b", None),
    )
]


def _risks(text: str) -> Iterator[str]:
    """What is risky about a command line, perhaps twice."""
    for part in _PARTS.split(text):
        if (found := _DELETES.search(part)) and all(p.search(part, found.end()) for p in (_RECURSIVE, _ROOT)):
            yield "recursive delete at /"
    lines = _LINES.split(text)
    for name, first, then in _RISKS:
        if then is None:
            if first.search(text):
                yield name
        elif any((found := first.search(line)) and then.search(line, found.end()) for line in lines):
            yield name


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
    rules = list(dict.fromkeys(_risks(command[:LOOKED_AT])))
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
