"""What is wrong with how the agent was called is one line each, and exit status 2."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from control_plane_agent import cli, identity
from control_plane_agent.cli import main
from control_plane_agent.disk import RealDisk
from tests.support.agent import an_identity


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONTROL_PLANE_AGENT_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers])
    return tmp_path


def enrolled(state_dir: Path, **changes: object) -> None:
    key = identity.create_key(state_dir)
    disk = RealDisk(str(state_dir))
    identity.save(disk, an_identity(key=key, **changes))
    disk.close()


@pytest.mark.parametrize("url", ["http://h:abc", "http://h:70000", "http://[", "http://", "ftp://h", "h"])
def test_an_address_of_the_control_plane_that_is_none_is_told_in_one_line(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["enrol", "--server", url, "--token", "x", "--hostname", "web1"]) == 2

    assert capsys.readouterr().err == f"control-plane-agent: {url} is no http or https address\n"


@pytest.mark.parametrize(
    ("url", "is_warned"),
    [
        ("http://control.example.com", True),
        ("http://192.0.2.7:8000", True),
        ("https://control.example.com", False),
        ("http://localhost:8000", False),
        ("http://127.1.2.3", False),
        ("http://[::1]:8000", False),
    ],
)
def test_enrolling_without_tls_over_a_network_warns_in_one_line(
    url: str, is_warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("control_plane_agent.enrolment.enrol", lambda *_: an_identity())

    assert main(["enrol", "--server", url, "--token", "x", "--hostname", "web1"]) == 0

    warning = f"control-plane-agent: {url} is not encrypted: who sits between can give this host another key to trust\n"
    assert capsys.readouterr().err == (warning if is_warned else "")


def test_a_server_whose_name_cannot_be_one_is_not_reached(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enrol", "--server", "https://a..b", "--token", "x", "--hostname", "web1"]) == 1

    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("control-plane-agent: cannot reach https://a..b: ")


@pytest.mark.parametrize("url", ["garbage", "amqp://", "amqp://h:abc/", "amqp://u:secret@[", "http://h"])
def test_an_address_of_the_broker_that_is_none_is_told_without_its_password(
    url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(state_dir)
    monkeypatch.setenv("CONTROL_PLANE_AGENT_AMQP_URL", url)

    assert main(["run"]) == 2

    expected = "control-plane-agent: CONTROL_PLANE_AGENT_AMQP_URL: not amqp://user:password@host:port/virtual-host\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("url", ["", "garbage"])
def test_an_enrolment_without_an_address_of_the_broker_says_what_to_set(
    url: str, state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(state_dir, amqp_url=url)

    assert main(["run"]) == 2

    expected = "control-plane-agent: enrolment gave no address of the broker: set CONTROL_PLANE_AGENT_AMQP_URL\n"
    assert capsys.readouterr().err == expected


def test_a_stop_that_a_silent_broker_holds_up_ends_in_time_with_a_word_of_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Held:
        name = "held"

        async def run(self, stop: asyncio.Event) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    monkeypatch.setattr(cli, "DRAIN_S", 0.01)

    cli._serve([Held()])  # type: ignore[list-item]

    assert [record.message for record in caplog.records] == ["stopped without waiting any longer"]
