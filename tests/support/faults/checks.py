"""The guarantees as functions of what was observed from outside: each says what breaks it, and nothing is right.

They know nothing of the system but the words of its log, so that what is wrong there cannot make them agree with it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.support.faults.ledger import Book
from tests.support.faults.witness import Expected, expected

RANKS: Mapping[str, int] = {"queued": 0, "sent": 1, "accepted": 2, "running": 3}  # any other state is the last one
TERMINAL_RANK = 4
RAN = frozenset({"succeeded", "failed"})  # it has come to its end by itself
NEVER_RAN = frozenset({"rejected", "expired", "skipped"})
OUTCOMES = {f"execution.{word}" for word in ("finished", "expired", "lost", "skipped", "cancelled")}
ABSORBED = {"same": {200, 202}, "body": {409}, "actor": {403, 409}}  # by what a repeat differed in

Key = tuple[str, str]  # task_id, hostname


@dataclass(frozen=True, slots=True)
class Violation:
    """Attributes: `invariant`: "I1" to "I14"; `what`: for people, with the ids."""

    invariant: str
    what: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event as the export has it, as far as it is looked at.

    Attributes:
        count: of the attempts that it stands for.
        message_sha256: of the message that it is about.
    """

    seq: int
    recorded_at: str
    kind: str
    task_id: str | None = None
    hostname: str | None = None
    hosts: tuple[str, ...] = ()
    actor: str | None = None
    count: int = 1
    message_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """A task as it was shown at a moment: how many hosts it is for, its counts by state, and the states by hostname."""

    task_id: str
    targets: int
    counts: Mapping[str, int]
    states: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Execution:
    state: str
    exit_code: int | None = None
    stdout: str | None = None
    stdout_sha256: str | None = None
    started: bool = False


@dataclass(frozen=True, slots=True)
class Things:
    """What must not grow: processes and descriptors by number, temporary files and cgroups by name."""

    processes: int = 0
    descriptors: int = 0
    names: frozenset[str] = frozenset()


@dataclass(kw_only=True)
class Evidence:
    """All that was observed of one run.

    Attributes:
        witness: task_ids in the order of their runs, by hostname.
        witnessed: the tasks whose command is the witness; of the others nothing can be said of runs.
        expected: what a run must say; by default what the witness computes.
        outcomes: what each finished task is said to have come to, where that was looked at.
        verified: what `audit verify` found, a line each; `differing`: read tables that differ from a rebuild.
        depths: messages left in each queue at the end. `explained`: dead letters that the run has made, by queue.
        waited_s: since the last heal, or since the last deadline where that is later; `patience_s`: what is allowed.
        injected: duplicates that the run has sent itself; `absorbed`: those that the system has counted.
        conflicts: second, different results that it has counted.
        before, after: processes, descriptors and files.
        denied: what each of those has tried who may not: how often that was answered, and how often it was tried.
        forged: SHA-256 of each message that the broker has taken and nobody has signed.
    """

    book: Book = field(default_factory=Book)
    events: Sequence[Event] = ()
    polls: Sequence[Poll] = ()
    executions: Mapping[Key, Execution] = field(default_factory=dict)
    witness: Mapping[str, Sequence[str]] = field(default_factory=dict)
    witnessed: frozenset[str] = frozenset()
    expected: Callable[[str], Expected] = expected
    outcomes: Mapping[str, str] = field(default_factory=dict)
    verified: Sequence[str] = ()
    differing: Sequence[str] = ()
    depths: Mapping[str, int] = field(default_factory=dict)
    explained: Mapping[str, int] = field(default_factory=dict)
    waited_s: float = 0.0
    patience_s: float = 60.0
    injected: int = 0
    absorbed: int | None = None
    conflicts: int = 0
    before: Things | None = None
    after: Things | None = None
    denied: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    forged: frozenset[str] = frozenset()

    @property
    def accepted(self) -> dict[str, tuple[str, ...]]:
        """The frozen list of each task in the log."""
        return {e.task_id: e.hosts for e in self.events if e.kind == "task.accepted" and e.task_id is not None}

    @property
    def runs(self) -> Counter[Key]:
        return Counter((task_id, host) for host, task_ids in self.witness.items() for task_id in task_ids)


Check = Callable[[Evidence], Iterator[str]]


def acknowledged_is_recorded(evidence: Evidence) -> Iterator[str]:
    """I1."""
    recorded = Counter(e.task_id for e in evidence.events if e.kind == "task.accepted")
    yield from (
        f"{t} was acknowledged and is not in the log" for t in sorted(evidence.book.acknowledged - recorded.keys())
    )
    yield from (f"{t} is in the log {n} times" for t, n in recorded.items() if n > 1)


def one_outcome_each(evidence: Evidence) -> Iterator[str]:
    """I2."""
    outcomes = Counter((e.task_id, e.hostname) for e in evidence.events if e.kind in OUTCOMES)
    for task_id, hosts in evidence.accepted.items():
        for host in hosts:
            if (number := outcomes.pop((task_id, host), 0)) != 1:
                yield f"{task_id} on {host} has {number} outcomes"
    yield from (f"{task_id} on {host}, which is not on its list, has an outcome" for task_id, host in outcomes)
    for poll in evidence.polls:
        if sum(poll.counts.values()) != poll.targets:
            yield f"{poll.task_id} is for {poll.targets} hosts and counts {dict(poll.counts)}"
    for (task_id, host), execution in evidence.executions.items():
        if evidence.outcomes.get(task_id) == "succeeded" and execution.state != "succeeded":
            yield f"{task_id} is said to have succeeded, and on {host} it is {execution.state}"


def runs_at_most_once(evidence: Evidence) -> Iterator[str]:
    """I3."""
    runs = evidence.runs
    yield from (f"{task_id} ran {number} times on {host}" for (task_id, host), number in runs.items() if number > 1)
    for (task_id, host), execution in evidence.executions.items():
        if task_id in evidence.witnessed:
            number = runs[task_id, host]
            if execution.state in RAN and number == 0:
                yield f"{task_id} on {host} is {execution.state} and never ran"
            never = execution.state in NEVER_RAN or (execution.state == "cancelled" and not execution.started)
            if never and number:
                yield f"{task_id} on {host} is {execution.state} and ran"


def says_what_it_did(evidence: Evidence) -> Iterator[str]:
    """I4."""
    for (task_id, host), execution in evidence.executions.items():
        if task_id in evidence.witnessed and execution.state in RAN:
            wanted = evidence.expected(task_id)
            if execution.exit_code != wanted.exit_code or (execution.exit_code == 0) != (
                execution.state == "succeeded"
            ):
                yield f"{task_id} on {host} is {execution.state} with {execution.exit_code}, not {wanted.exit_code}"
            if execution.stdout not in {None, wanted.stdout} or execution.stdout_sha256 not in {
                None,
                wanted.stdout_sha256,
            }:
                yield f"{task_id} on {host} has printed something else: {execution.stdout!r}"


def log_is_whole(evidence: Evidence) -> Iterator[str]:
    """I5."""
    seqs = [event.seq for event in evidence.events]
    if seqs != list(range(1, len(seqs) + 1)):
        wrong = next(seq for at, seq in enumerate(seqs, start=1) if seq != at)
        yield f"the log is not 1 to {len(seqs)}: {wrong} is out of place"
    for one, other in pairwise(evidence.events):
        if other.recorded_at <= one.recorded_at:
            yield f"event {other.seq} was recorded no later than {one.seq}"
    yield from evidence.verified


def tables_equal_a_rebuild(evidence: Evidence) -> Iterator[str]:
    """I6."""
    yield from evidence.differing


def refused_leaves_nothing(evidence: Evidence) -> Iterator[str]:
    """I7."""
    ran = {task_id for task_id, _ in evidence.runs}
    for task_id in sorted(evidence.book.refused):
        if task_id in evidence.accepted:
            yield f"{task_id} was refused and is in the log"
        if task_id in ran:
            yield f"{task_id} was refused and ran"


def nobody_else_runs_it(evidence: Evidence) -> Iterator[str]:
    """I8."""
    accepted = evidence.accepted
    for task_id, host in evidence.runs:
        if host not in accepted.get(task_id, ()):
            yield f"{task_id} ran on {host}, which is not on its list"


def all_is_healed(evidence: Evidence) -> Iterator[str]:
    """I9."""
    for (task_id, host), execution in evidence.executions.items():
        if execution.state in RANKS:
            yield f"{task_id} on {host} is {execution.state} yet"
    for queue, left in evidence.depths.items():
        if left != evidence.explained.get(queue, 0):
            yield f"{left} messages in {queue}, {evidence.explained.get(queue, 0)} of them known"
    if evidence.waited_s > evidence.patience_s:
        yield f"it took {evidence.waited_s:.1f} s to heal"


def nothing_goes_back(evidence: Evidence) -> Iterator[str]:
    """I10."""
    last: dict[Key, str] = {}
    for poll in evidence.polls:
        for host, state in poll.states.items():
            before = last.get((poll.task_id, host), "queued")
            is_back = _rank(state) < _rank(before) or (_rank(before) == TERMINAL_RANK and state != before)
            if is_back:
                yield f"{poll.task_id} on {host} was {before} and then {state}"
            last[poll.task_id, host] = state
    for key, execution in evidence.executions.items():
        before = last.get(key, "queued")
        if _rank(before) == TERMINAL_RANK and execution.state != before:
            yield f"{key[0]} on {key[1]} was {before} and ended as {execution.state}"


def _rank(state: str) -> int:
    return RANKS.get(state, TERMINAL_RANK)


def nothing_leaks(evidence: Evidence) -> Iterator[str]:
    """I11."""
    if evidence.before is None or evidence.after is None:
        return
    if evidence.after.processes > evidence.before.processes:
        yield f"{evidence.after.processes} processes, and there were {evidence.before.processes}"
    if evidence.after.descriptors > evidence.before.descriptors:
        yield f"{evidence.after.descriptors} descriptors, and there were {evidence.before.descriptors}"
    yield from (f"{name} is left" for name in sorted(evidence.after.names - evidence.before.names))


def repeats_are_told_apart(evidence: Evidence) -> Iterator[str]:
    """I12."""
    for task_id, answers in evidence.book.repeats.items():
        if task_id in evidence.book.acknowledged:
            for differs, status in answers:
                if status not in ABSORBED[differs]:
                    yield f"{task_id} again, {differs}: {status}"


def duplicates_change_nothing(evidence: Evidence) -> Iterator[str]:
    """I13."""
    if evidence.absorbed is not None and evidence.absorbed < evidence.injected:
        yield f"{evidence.injected} duplicates were sent and {evidence.absorbed} counted"
    if evidence.conflicts:
        yield f"{evidence.conflicts} results differ from the first of their execution"


def attempts_are_recorded(evidence: Evidence) -> Iterator[str]:
    """I14."""
    recorded: Counter[str | None] = Counter()
    for event in evidence.events:
        if event.kind == "access.denied":
            recorded[event.actor] += event.count
    for actor, (answered, tried) in evidence.denied.items():
        if not answered <= recorded[actor] <= tried:
            yield f"{actor} was denied {answered} times, has tried {tried} times, and {recorded[actor]} are in the log"
    rejected = {event.message_sha256 for event in evidence.events if event.kind == "message.rejected"}
    silent = sorted(evidence.forged - rejected)
    if len(silent) > sum(event.count - 1 for event in evidence.events if event.kind == "message.rejected"):
        yield from (f"message {sha256} was forged, and nothing says so" for sha256 in silent)


CHECKS: Mapping[str, Check] = {
    "I1": acknowledged_is_recorded,
    "I2": one_outcome_each,
    "I3": runs_at_most_once,
    "I4": says_what_it_did,
    "I5": log_is_whole,
    "I6": tables_equal_a_rebuild,
    "I7": refused_leaves_nothing,
    "I8": nobody_else_runs_it,
    "I9": all_is_healed,
    "I10": nothing_goes_back,
    "I11": nothing_leaks,
    "I12": repeats_are_told_apart,
    "I13": duplicates_change_nothing,
    "I14": attempts_are_recorded,
}


def violations(evidence: Evidence) -> list[Violation]:
    """Everything that breaks a guarantee, in their order."""
    return [Violation(name, what) for name, check in CHECKS.items() for what in check(evidence)]


def red(evidence: Evidence) -> set[str]:
    """The guarantees that are broken."""
    return {violation.invariant for violation in violations(evidence)}


def assert_holds(evidence: Evidence) -> None:
    found = violations(evidence)
    assert not found, "\n".join(f"{violation.invariant}: {violation.what}" for violation in found[:50])
