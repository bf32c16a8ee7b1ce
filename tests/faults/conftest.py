"""The figures of the level, at the end of its run."""

from typing import TYPE_CHECKING

from tests.support.faults.report import SESSION

if TYPE_CHECKING:
    import pytest


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    if SESSION.is_empty():
        return
    terminalreporter.section("faults")
    for line in SESSION.lines():
        terminalreporter.write_line(line)
