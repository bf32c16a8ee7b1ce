"""What a host lets itself be told."""

import os
import pwd

import pytest

from control_plane_agent.policy import HostPolicy
from tests.support.agent import a_command

NO_ACCOUNT = 4_000_000_000


def test_an_agent_whose_uid_has_no_account_refuses_and_names_the_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NO_ACCOUNT)

    refused = HostPolicy().refusal(a_command(user="root"))

    assert refused == "the agent is not root and runs commands as uid 4000000000 (no account on this host) only"


def test_an_agent_that_is_not_root_runs_only_its_own_account(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: nobody.pw_uid)

    assert HostPolicy().refusal(a_command(user="nobody")) is None
    assert HostPolicy().refusal(a_command(user="root")) == "the agent is not root and runs commands as nobody only"
