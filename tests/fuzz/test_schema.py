"""The API keeps what its OpenAPI document says, whichever role asks, or nobody."""

from pathlib import Path

import pytest

from tests.fuzz.schema import ALL, EVERYBODY, NOBODY, ask, broken, who
from tests.support.embedded import an_installation

pytestmark = pytest.mark.campaign  # `scripts/test schema` runs it at any length

SEED = 20261126


@pytest.mark.parametrize("role", EVERYBODY)
def test_the_api_keeps_what_it_says_of_itself(role: str, tmp_path: Path) -> None:
    # Whoever may most gets the limits of every field, too: thousands of requests that only differ behind a permission.
    phases = ALL if role == "administrator" else ("fuzzing", "stateful")
    with an_installation(tmp_path) as embedded:
        found = ask(embedded, role, seed=SEED, examples=1, phases=phases)

        print(f"{found.requests} requests, {len(found.succeeded)} operations let through, slow: {found.slow}")
        assert not found.wrong, "\n".join(f"{where}: {check}: {said}" for (where, check), said in found.wrong.items())
        if role != NOBODY:
            assert (who(embedded, role)["username"], who(embedded, role)["role"]) == (f"some-{role}", role)
        assert broken(embedded, found) == []
