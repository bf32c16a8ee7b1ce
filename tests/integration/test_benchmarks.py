"""The benchmarks go on working: they are run rarely, and most of all when somebody needs a figure."""

from pathlib import Path

import pytest

from tests.benchmarks import append, lag, past, rebuild, verify
from tests.support.database import sqlite_url


async def test_the_log_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await append.run(sqlite_url(tmp_path), rounds=1, batches=1, singles=2)

    printed = capsys.readouterr().out
    assert "99 in 100 at most" in printed
    assert "of the raw INSERT" in printed


async def test_rebuilds_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await rebuild.run(sqlite_url(tmp_path), hosts=20, tasks=1, heartbeats=1)

    assert capsys.readouterr().out.count("rebuilt, ") == 3


async def test_the_lag_of_read_tables_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await lag.run(sqlite_url(tmp_path), hosts=20, seconds=1)

    assert capsys.readouterr().out.count("p99") == 6


async def test_answers_of_the_past_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await past.run(sqlite_url(tmp_path), events=1_000, hosts=25, rounds=1)

    assert capsys.readouterr().out.count(" ms ") == 11


async def test_verification_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await verify.run(sqlite_url(tmp_path), events=500, heartbeats=10, rounds=1)

    assert "signatures, " in capsys.readouterr().out
