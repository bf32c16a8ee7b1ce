"""The figures of the level, at the end of its run, whichever of its processes found them."""

from typing import Any

import pytest

from tests.support.faults.report import SESSION


def pytest_sessionfinish(session: pytest.Session) -> None:
    told: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["figures"] = SESSION.plain()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    SESSION.add_plain(getattr(node, "workeroutput", {}).get("figures", {}))


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    if SESSION.is_empty():
        return
    terminalreporter.section("faults")
    for line in SESSION.lines():
        terminalreporter.write_line(line)
