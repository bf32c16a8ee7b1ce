"""Every decoder takes its corpus, and what becomes of it: crashers that were found are in there for good."""

import pytest

from tests.fuzz.mutations import CORPUS, MAX_BYTES, corpus_of, mutated
from tests.fuzz.targets import TARGETS

BRIEF = 300  # inputs of a target; `scripts/test fuzz` tries for minutes
SEED = 20261126


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept_is_taken_or_refused(name: str) -> None:
    inputs = corpus_of(name)
    assert inputs, f"{CORPUS / name} is empty"
    assert max(map(len, inputs)) <= MAX_BYTES

    for data in (b"", *inputs):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_becomes_of_it_is_taken_or_refused(name: str) -> None:
    for data in mutated(corpus_of(name), number=BRIEF, seed=SEED, most_bytes=MAX_BYTES):
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"{name} on {data!r}") from error


def test_a_corpus_is_a_targets() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


def test_the_same_seed_makes_the_same_inputs() -> None:
    made = [list(mutated([b'{"a":1}'], number=50, seed=1, most_bytes=99)) for _ in range(2)]

    assert made[0] == made[1]
    assert len(set(made[0])) > 40
