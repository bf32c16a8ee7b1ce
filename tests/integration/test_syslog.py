"""Checkpoints on their way to a syslog of somebody else's."""

import json
import socket
from pathlib import Path

import pytest

from control_plane.errors import ConfigurationError
from control_plane.observability import to_syslog
from control_plane.settings import load

NOTE = "o/event\n7\nAAAA\n\n— o/event BBBB\n"


@pytest.mark.parametrize("kind", ["udp", "socket"])
def test_a_note_arrives_as_one_line(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    family, place = (socket.AF_INET, ("127.0.0.1", 0)) if kind == "udp" else (socket.AF_UNIX, path)
    with socket.socket(family, socket.SOCK_DGRAM) as syslog:
        syslog.bind(place)
        syslog.settimeout(5)
        address = path if kind == "socket" else f"127.0.0.1:{syslog.getsockname()[1]}"

        to_syslog(load(checkpoint_syslog=address).checkpoint_syslog or "", "control-plane-checkpoint")(NOTE)

        line = syslog.recv(65536).decode()
    head, _, text = line.partition(": ")
    assert head == "<38>control-plane-checkpoint"  # auth.info
    assert json.loads(text) == NOTE


def test_a_syslog_that_is_not_there_is_a_warning_and_nothing_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to_syslog(str(tmp_path / "none"), "tag")(NOTE)

    assert [record.message for record in caplog.records] == ["syslog not reached"]


@pytest.mark.parametrize("address", ["nowhere", "host:port", "host:99999"])
def test_an_address_that_is_none_is_told_at_the_start(address: str) -> None:
    with pytest.raises(ConfigurationError, match="CHECKPOINT_SYSLOG"):
        load(checkpoint_syslog=address)
