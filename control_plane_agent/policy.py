"""What this host lets itself be told: a local decision that nothing from the wire can widen."""

import os
import pwd
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from control_plane_wire.messages import MAX_TIMEOUT_S, CommandMessage


class Policy(Protocol):
    def refusal(self, command: CommandMessage) -> str | None:
        """Why this host does not run that, in one line; None where it does. May wait for a directory of accounts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPolicy:
    """Attributes: `accounts`: that commands may run as, empty means any; `max_timeout_s`: the longest allowed."""

    accounts: Collection[str] = ()
    max_timeout_s: int = MAX_TIMEOUT_S

    def refusal(self, command: CommandMessage) -> str | None:
        if self.accounts and command.user not in self.accounts:
            return f"this host runs nothing as {command.user}"
        try:
            account = pwd.getpwnam(command.user)
        except KeyError:
            return f"there is no account {command.user} on this host"
        if os.geteuid() not in {0, account.pw_uid}:
            return f"the agent is not root and runs commands as {own_account()} only"
        if command.timeout > self.max_timeout_s:
            return f"the timeout is longer than the {self.max_timeout_s} s that this host allows"
        return None


def own_account() -> str:
    """What this process runs as, for people: a container's uid need not be anybody's."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid} (no account on this host)"


class AnyPolicy:
    """For simulated hosts: they run nothing, so they need no accounts."""

    def refusal(self, command: CommandMessage) -> str | None:
        return None
