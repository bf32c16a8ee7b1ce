"""The last uses of tokens, on every database: the newest stays, whoever writes it and in whatever order."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.commands.token_uses import KEPT_US, WRITE_US, TokenUse, TokenUses
from control_plane.storage.engine import Database
from control_plane.storage.token_uses import TokenUseRows
from tests.support.clock import ManualClock
from tests.support.database import migrated, sqlite_url


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = sqlite_url(tmp_path) if request.param == "sqlite" else str(request.getfixturevalue("mysql_url"))
    async with migrated(url) as made:
        yield made


async def test_the_newest_use_stays(database: Database) -> None:
    table = TokenUseRows(database)
    assert await table.all() == {}

    await table.put({"a": TokenUse(10, "10.0.0.1"), "b": TokenUse(10, None)})
    await table.put({"a": TokenUse(9, "10.0.0.9"), "b": TokenUse(11, "::1"), "c": TokenUse(1, None)})

    assert await table.all() == {"a": (10, "10.0.0.1"), "b": (11, "::1"), "c": (1, None)}


async def test_two_processes_tell_the_newest_of_both_and_each_writes_once_a_minute(database: Database) -> None:
    clock = ManualClock()
    one, other = (TokenUses(TokenUseRows(database), clock) for _ in range(2))

    one.note("a", "10.0.0.1")
    await one._write(everything=False)
    clock.advance(1)
    other.note("a", "10.0.0.2")
    await other._write(everything=False)
    clock.advance(1)
    one.note("a", "10.0.0.3")
    await one._write(everything=False)

    assert (await one.all())["a"].address == "10.0.0.3"
    assert (await other.all())["a"].address == "10.0.0.2"
    clock.advance(WRITE_US / 1_000_000)
    await one._write(everything=False)
    assert (await other.all())["a"].address == "10.0.0.3"


async def test_what_is_not_used_any_more_takes_no_memory(database: Database) -> None:
    clock = ManualClock()
    uses = TokenUses(TokenUseRows(database), clock)
    for number in range(50):
        uses.note(f"t{number}", None)
    await uses._write(everything=False)
    clock.advance(KEPT_US / 1_000_000 + 1)
    uses.note("t1", None)
    await uses._write(everything=False)

    assert list(uses._latest) == ["t1"]
    assert len(await uses.all()) == 50
