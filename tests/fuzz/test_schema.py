"""The API keeps what its OpenAPI document says, whichever role asks, or nobody.

`scripts/test schema` asks at length.
"""

from pathlib import Path

import pytest

from tests.fuzz.schema import EVERYBODY, NOBODY, ask, broken, unlike, who
from tests.support.embedded import an_installation

SEED = 20261126
THOROUGH = ("administrator", "operator")  # more would only differ behind a permission


# Hypothesis compares the state of the process's generator, which the installation in the other thread moves, too.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("role", EVERYBODY)
def test_the_api_keeps_what_it_says_of_itself(role: str, tmp_path: Path) -> None:
    is_thorough = role in THOROUGH
    phases = ("fuzzing", "stateful") if is_thorough else ("fuzzing",)
    with an_installation(tmp_path) as embedded:
        found = ask(embedded, role, seed=SEED, examples=1, phases=phases, is_thorough=is_thorough)

        print(f"{found.requests} requests, {len(found.succeeded)} operations let through, slow: {found.slow}")
        assert not found.wrong, "\n".join(f"{where}: {check}: {said}" for (where, check), said in found.wrong.items())
        assert unlike(role, found) == []
        if role != NOBODY:
            assert (who(embedded, role)["username"], who(embedded, role)["role"]) == (f"some-{role}", role)
        assert broken(embedded, found) == []
