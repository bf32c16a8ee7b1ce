"""The checks of the fault runs: sound evidence is green, and each way of breaking a guarantee turns its check red."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.faults.checks import Event, Evidence, Execution, Poll, Things, assert_holds, red
from tests.support.faults.ledger import Book
from tests.support.faults.report import Figures, percentile
from tests.support.faults.witness import expected

NOT_ZERO = next(f"t{n}" for n in range(100) if expected(f"t{n}").exit_code)
ZERO = next(f"t{n}" for n in range(100) if expected(f"t{n}").exit_code == 0)


def sound() -> Evidence:
    """One task on two hosts that ended well, one that was refused, one of which nobody knows."""
    said = expected(ZERO)
    ended = Execution("succeeded", 0, said.stdout, said.stdout_sha256, started=True)
    return Evidence(
        book=Book(
            attempts={ZERO: "a", "no": "b", "info": "c"},
            acknowledged={ZERO},
            refused={"no"},
            repeats={ZERO: [("same", 200), ("body", 409), ("actor", 409)]},
        ),
        events=[
            Event(1, "01", "task.accepted", ZERO, hosts=("web1", "web2")),
            Event(2, "02", "execution.finished", ZERO, "web1"),
            Event(3, "03", "execution.finished", ZERO, "web2"),
            Event(4, "04", "access.denied", actor="eve", count=2),
            Event(5, "05", "message.rejected", message_sha256="00"),
        ],
        polls=[
            Poll(ZERO, 2, {"queued": 2}, {"web1": "queued", "web2": "queued"}),
            Poll(ZERO, 2, {"queued": 1, "succeeded": 1}, {"web1": "succeeded", "web2": "queued"}),
        ],
        executions={(ZERO, "web1"): ended, (ZERO, "web2"): ended},
        witness={"web1": [ZERO], "web2": [ZERO]},
        witnessed=frozenset({ZERO}),
        depths={"cmd.result": 0, "cmd.result.dead": 1},
        explained={"cmd.result.dead": 1},
        injected=5,
        absorbed=7,
        denied={"eve": (2, 3)},
        forged=frozenset({"00"}),
        before=Things(3, 10, frozenset({"a"})),
        after=Things(3, 10, frozenset({"a"})),
    )


def state(evidence: Evidence, state: str, **changes: object) -> Evidence:
    """With the first execution in that state."""
    changed = replace(evidence.executions[ZERO, "web1"], state=state, **changes)  # type: ignore[arg-type]
    return replace(evidence, executions={**evidence.executions, (ZERO, "web1"): changed})


BROKEN: dict[str, tuple[str, Callable[[Evidence], Evidence]]] = {
    "acknowledged and not in the log": ("I1", lambda e: replace(e, events=[replace(e.events[0], task_id="x")])),
    "in the log twice": ("I1", lambda e: replace(e, events=[*e.events, replace(e.events[0], seq=4, recorded_at="04")])),
    "no outcome": ("I2", lambda e: replace(e, events=e.events[:2])),
    "two outcomes": ("I2", lambda e: replace(e, events=[*e.events, Event(4, "04", "execution.lost", ZERO, "web1")])),
    "an outcome of somebody else": (
        "I2",
        lambda e: replace(e, events=[*e.events, Event(4, "04", "execution.finished", ZERO, "db1")]),
    ),
    "counts that do not add up": ("I2", lambda e: replace(e, polls=[Poll(ZERO, 2, {"queued": 1}, {})])),
    "succeeded though one host has not": ("I2", lambda e: replace(state(e, "lost"), outcomes={ZERO: "succeeded"})),
    "run twice": ("I3", lambda e: replace(e, witness={"web1": [ZERO, ZERO], "web2": [ZERO]})),
    "succeeded and never run": ("I3", lambda e: replace(e, witness={"web2": [ZERO]})),
    "expired and run": ("I3", lambda e: state(e, "expired")),
    "cancelled before its start and run": ("I3", lambda e: state(e, "cancelled", started=False)),
    "another exit code": ("I4", lambda e: state(e, "failed", exit_code=9)),
    "succeeded with a code": ("I4", lambda e: state(e, "failed")),
    "another output": ("I4", lambda e: state(e, "succeeded", stdout="x")),
    "another digest": ("I4", lambda e: state(e, "succeeded", stdout_sha256="x")),
    "a hole": ("I5", lambda e: replace(e, events=[*e.events[:2], replace(e.events[2], seq=4)])),
    "out of order": ("I5", lambda e: replace(e, events=[*e.events[:2], replace(e.events[2], recorded_at="02")])),
    "a tree that does not verify": ("I5", lambda e: replace(e, verified=["an invalid hash at 2"])),
    "a table that differs": ("I6", lambda e: replace(e, differing=["hosts"])),
    "refused and recorded": ("I7", lambda e: replace(e, book=replace(e.book, refused={ZERO}))),
    "refused and run": ("I7", lambda e: replace(e, witness={**e.witness, "web1": [ZERO, "no"]})),
    "run by somebody else": ("I8", lambda e: replace(e, witness={**e.witness, "db1": [ZERO]})),
    "not at its end": ("I9", lambda e: state(e, "running")),
    "a queue that is not empty": ("I9", lambda e: replace(e, depths={"cmd.result": 1})),
    "a dead letter that nobody has made": ("I9", lambda e: replace(e, explained={})),
    "healed too late": ("I9", lambda e: replace(e, waited_s=60.1)),
    "back to an earlier state": (
        "I10",
        lambda e: replace(e, polls=[*e.polls, Poll(ZERO, 2, {"queued": 1, "sent": 1}, {"web1": "sent"})]),
    ),
    "another end": ("I10", lambda e: state(e, "lost")),
    "a process is left": ("I11", lambda e: replace(e, after=Things(4, 10, frozenset({"a"})))),
    "a descriptor is left": ("I11", lambda e: replace(e, after=Things(3, 11, frozenset({"a"})))),
    "a file is left": ("I11", lambda e: replace(e, after=Things(3, 10, frozenset({"a", "b"})))),
    "a repeat that is another task": (
        "I12",
        lambda e: replace(e, book=replace(e.book, repeats={ZERO: [("body", 202)]})),
    ),
    "somebody else's repeat is taken": (
        "I12",
        lambda e: replace(e, book=replace(e.book, repeats={ZERO: [("actor", 200)]})),
    ),
    "duplicates that nobody counted": ("I13", lambda e: replace(e, absorbed=4)),
    "a second result": ("I13", lambda e: replace(e, conflicts=1)),
    "a denial of which nothing is left": ("I14", lambda e: replace(e, denied={"eve": (3, 3)})),
    "denials that nobody has tried": ("I14", lambda e: replace(e, denied={"eve": (0, 1)})),
    "a forgery of which nothing is left": ("I14", lambda e: replace(e, forged=frozenset({"00", "01"}))),
}


def test_sound_evidence_breaks_nothing() -> None:
    assert_holds(sound())


@pytest.mark.parametrize("how", BROKEN)
def test_what_breaks_a_guarantee_turns_its_check_red(how: str) -> None:
    invariant, break_it = BROKEN[how]

    assert invariant in red(break_it(sound()))


def test_every_check_can_turn_red() -> None:
    assert {invariant for invariant, _ in BROKEN.values()} == {f"I{n}" for n in range(1, 15)}


def test_the_figures_are_those_of_the_evidence() -> None:
    figures = Figures(heal_s=[1.0, 2.0, 30.0])
    evidence = sound()
    evidence.book.attempts["recovered"] = "d"
    figures.add(replace(evidence, events=[*evidence.events, Event(4, "04", "task.accepted", "recovered", hosts=())]))
    figures.add(replace(sound(), events=[], witness={"web1": [ZERO, ZERO]}))

    assert (figures.attempts, figures.acknowledged, figures.ok, figures.recovered) == (7, 2, 2, 1)
    assert (figures.lost, figures.unknown, figures.unexpected, figures.twice) == (1, 2, 0, 1)
    assert any("p50 2.0 s, p99 30.0 s, max 30.0 s of 3" in line for line in figures.lines())


def test_the_figures_of_two_processes_are_added() -> None:
    one = Figures(attempts=2, states=Counter(lost=1), killed={"a"}, heal_s=[1.0], seeds=[7], faults=Counter(cut=1))
    other = Figures(
        attempts=3, states=Counter(lost=1, failed=2), killed={"a", "b"}, heal_s=[2.0], faults=Counter(cut=4)
    )
    assert {type(value) for value in other.plain().values()} == {int, dict, set, list}  # a worker tells those

    one.add_plain(other.plain())

    assert (one.attempts, one.states, one.killed) == (5, Counter(lost=2, failed=2), {"a", "b"})
    assert (one.heal_s, one.seeds, one.faults) == ([1.0, 2.0], [7], Counter(cut=5))


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 5), (0.99, 10), (1.0, 10), (0.01, 1)])
def test_a_percentile_is_one_of_the_values(share: float, wanted: float) -> None:
    assert percentile(range(1, 11), share) == wanted
