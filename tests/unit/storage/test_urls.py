"""Which database URLs are refused before anything is opened or made."""

import asyncio
from pathlib import Path

import pytest

from control_plane.errors import ConfigurationError
from control_plane.storage.engine import open_database

IN_MEMORY = ["", "/", "/:memory:", "/file::memory:?uri=true"]


async def opened(url: str) -> None:
    async with open_database(url):
        pass


@pytest.mark.parametrize("rest", [*IN_MEMORY, "/file:other.db?uri=true", "/.", "//"])
def test_a_database_of_one_machine_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigurationError, match="must name a"):
        asyncio.run(opened(f"sqlite+aiosqlite://{rest}"))

    assert list(tmp_path.iterdir()) == []


async def test_a_server_s_database_has_a_name() -> None:
    with pytest.raises(ConfigurationError, match="must name a database"):
        await opened("mysql+aiomysql://somebody@127.0.0.1/")
