"""What a heartbeat says of a machine, whatever the machine lacks."""

import errno
import os
import pwd
import socket

import pytest

from control_plane_agent.facts import MachineFacts


def test_a_machine_without_ipv6_says_its_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutIPv6(socket.socket):
        def __init__(self, family: int, kind: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, kind)

        def connect(self, address: object) -> None:
            super().connect(("127.0.0.1", 9))

    monkeypatch.setattr("control_plane_agent.facts.socket.socket", WithoutIPv6)

    assert MachineFacts().read()["addresses"] == ("127.0.0.1",)


@pytest.mark.parametrize("uid", [0, pwd.getpwnam("nobody").pw_uid])
def test_an_agent_says_whose_commands_it_runs_unless_it_is_root(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    assert MachineFacts().read()["runs_as"] == (None if uid == 0 else "nobody")
