"""The figures of a level's run, in Jepsen's words, printed at its end."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tests.support.faults.checks import RANKS, Evidence
from tests.support.faults.points import every_point


@dataclass
class Figures:
    """Sums over all runs of a session.

    Attributes:
        attempts: tasks that were asked for; `acknowledged`: those that were answered so.
        ok: tasks that were asked for and are in the log.
        recovered: of these, those that were never acknowledged; `unknown`: neither acknowledged, refused nor there.
        lost: acknowledged and not in the log, or without an outcome; `unexpected`: in the log and never asked for.
        executions: (task, host) pairs; `runs`: those that ran once or more; `twice`: those that ran more than once.
        states: terminal executions by state.
        absorbed: duplicates that were counted and changed nothing.
        killed: failpoints at which a program was killed.
        heal_s: seconds from the last heal until all was well, one for each fault or run.
        seeds: of the random runs.
    """

    attempts: int = 0
    acknowledged: int = 0
    ok: int = 0
    recovered: int = 0
    unknown: int = 0
    lost: int = 0
    unexpected: int = 0
    executions: int = 0
    runs: int = 0
    twice: int = 0
    absorbed: int = 0
    states: Counter[str] = field(default_factory=Counter)
    killed: set[str] = field(default_factory=set)
    heal_s: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, evidence: Evidence) -> None:
        book, accepted = evidence.book, evidence.accepted
        there = book.attempts.keys() & accepted.keys()
        open_ones = {task_id for (task_id, _), e in evidence.executions.items() if e.state in RANKS}
        self.attempts += len(book.attempts)
        self.acknowledged += len(book.acknowledged)
        self.ok += len(there)
        self.recovered += len(there - book.acknowledged)
        self.unknown += len(book.unanswered - accepted.keys())
        self.lost += len(book.acknowledged - accepted.keys()) + len(book.acknowledged & open_ones)
        self.unexpected += len(accepted.keys() - book.attempts.keys())
        self.executions += len(evidence.executions)
        self.runs += len(evidence.runs)
        self.twice += sum(number > 1 for number in evidence.runs.values())
        self.absorbed += evidence.absorbed or 0
        self.states += Counter(execution.state for execution in evidence.executions.values())

    def plain(self) -> dict[str, Any]:
        """All of it in Python's own types, as one process of a test run tells another."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}

    def add_plain(self, others: Mapping[str, Any]) -> None:
        """Add what another process found."""
        for name, value in others.items():
            mine = getattr(self, name)
            setattr(self, name, mine | value if isinstance(mine, set) else mine + type(mine)(value))

    def is_empty(self) -> bool:
        return not (self.attempts or self.killed or self.heal_s)

    def lines(self) -> list[str]:
        at_most = f"{3 / self.executions:.2%}" if self.executions else "unknown"
        interrupted, lost = (self._share(self.states[state]) for state in ("interrupted", "lost"))
        found = {
            "attempts": self.attempts,
            "acknowledged": self.acknowledged,
            "ok": self.ok,
            "recovered": self.recovered,
            "lost": self.lost,
            "unexpected": self.unexpected,
            "run twice": self.twice,
            "unknown": self.unknown,
            "executions": f"{self.executions}, of which {self.runs} ran",
            "duplicates absorbed": self.absorbed,
            "interrupted, lost": f"{interrupted}, {lost} of the executions",
            "crash points": f"{len(self.killed)} of {len(every_point())} covered",
            "time to heal": self._healed(),
            "95 % bound": f"at most {at_most} of the executions lost or run twice, if none was seen (3/n)",
        }
        if self.faults:
            found["faults"] = ", ".join(f"{name} {number}" for name, number in sorted(self.faults.items()))
        if self.seeds:
            found["seeds"] = ", ".join(map(str, self.seeds)) + " (CONTROL_PLANE_FAULT_SEED repeats one)"
        return [f"{name:<20} {value}" for name, value in found.items()]

    def _share(self, number: int) -> str:
        return f"{number / self.executions:.1%}" if self.executions else "none"

    def _healed(self) -> str:
        if not self.heal_s:
            return "nothing was healed"
        p50, p99, most = (percentile(self.heal_s, share) for share in (0.5, 0.99, 1.0))
        return f"p50 {p50:.1f} s, p99 {p99:.1f} s, max {most:.1f} s of {len(self.heal_s)}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below or at which so much of them is (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


SESSION = Figures()
