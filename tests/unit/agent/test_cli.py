"""What is wrong with how the agent was called is one line each, and exit status 2."""

import asyncio
import io
import logging
import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest

from control_plane_agent import cli, identity, rotation
from control_plane_agent.cli import main
from control_plane_agent.disk import RealDisk
from control_plane_wire.signing import SigningKey
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


@pytest.mark.parametrize(
    ("arguments", "typed", "token"),
    [
        (["--token", "cpe_1_2"], "", "cpe_1_2"),
        ([], "cpe_1_2\n", "cpe_1_2"),
        (["--token", "-"], " cpe_1_2 \nmore", "cpe_1_2"),
        (["--token", "-"], "", "-"),  # which is none, and refused
        ([], "", None),
        ([], "\n", None),
    ],
)
def test_a_token_comes_by_argument_or_on_standard_input_and_without_one_the_host_asks(
    arguments: list[str], typed: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def enrol(_path: Path, _server: object, text: str, _hostname: str) -> identity.Identity:
        asked.append(text)
        return an_identity()

    def request(_path: Path, _server: object, _hostname: str, **_given: object) -> identity.Identity:
        asked.append(None)
        return an_identity()

    monkeypatch.setattr("control_plane_agent.enrolment.enrol", enrol)
    monkeypatch.setattr("control_plane_agent.enrolment.request", request)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))

    assert main(["enrol", "--server", "https://h", *arguments, "--hostname", "web1"]) == 0

    assert asked == [token]


@pytest.mark.parametrize("is_running", [False, True])
def test_a_new_key_is_taken_at_once_or_left_to_the_agent_that_runs(
    is_running: bool, state_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(state_dir)
    before, new = identity.load(state_dir).key, SigningKey.generate()

    def ask(disk: RealDisk, _server: object, *, prescribed_url: str | None) -> rotation.Rotation:
        known = rotation.Rotation(key=new, is_known=True)
        rotation._write(disk, known)
        return known

    monkeypatch.setattr("control_plane_agent.rotation.ask", ask)
    with cli._state_directory(state_dir) if is_running else nullcontext():
        assert main(["rotate-key", "--server", "https://h"]) == 0

    said = capsys.readouterr().out
    assert ("the running agent takes" in said) is is_running
    assert new.key_id in said
    assert identity.load(state_dir).key.key_id == (before if is_running else new).key_id


def test_a_host_that_is_not_enrolled_has_no_key_to_rotate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rotate-key", "--server", "https://h"]) == 2

    assert "not enrolled" in capsys.readouterr().err


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


def test_an_argument_or_a_token_that_is_no_text_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["enrol", "--server", "https://h"]
    assert main([*argv, "--token", "cpe_\udcff"]) == main(["simulate", "1", *argv[1:], "--group", "\udcff"]) == 2
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"cpe_\xff\n"), encoding="utf-8"))
    assert main(argv) == 2

    assert [line.removeprefix("control-plane-agent: ") for line in capsys.readouterr().err.splitlines()] == [
        *["an argument is not UTF-8"] * 2,
        "the token on standard input is not UTF-8",
    ]
