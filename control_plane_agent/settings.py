"""The agent's settings, from the environment: CONTROL_PLANE_AGENT_<NAME>."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from control_plane_agent.errors import ConfigurationError
from control_plane_wire.messages import DEFAULT_INTERVAL_S, MAX_TIMEOUT_S

PREFIX: Final = "CONTROL_PLANE_AGENT_"


def _number(most: int, what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
            raise ValueError(f"not a number of {what} from 1 to {most}")
        return int(text)

    return parse


def _seconds(most: int) -> Callable[[str], int]:
    return _number(most, "seconds")


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"not one of {', '.join(choices)}")
        return text

    return parse


def _yes_or_no(text: str) -> bool:
    return _one_of("yes", "no")(text) == "yes"


def is_address(url: str, *, schemes: Collection[str]) -> bool:
    """Whether a URL has one of the schemes, a host, and a port that can be one, if any."""
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number, or a bracket is missing
        return False


def is_broker(url: str) -> bool:
    """Whether this can be the address of a broker."""
    return is_address(url, schemes={"amqp", "amqps"})


def _broker(text: str) -> str:
    if text and not is_broker(text):
        raise ValueError("not amqp://user:password@host:port/virtual-host")
    return text


def _accounts(text: str) -> tuple[str, ...]:
    return tuple(account.strip() for account in text.split(",") if account.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The defaults; what each means is said once, in `_SETTINGS`."""

    state_dir: Path = Path("/var/lib/control-plane-agent")
    amqp_url: str | None = field(default=None, repr=False)
    accounts: tuple[str, ...] = ()
    max_timeout_s: int = MAX_TIMEOUT_S
    forbid_sudo: bool = False
    keep_leftovers: bool = False
    containment: str = "auto"
    max_pids: int | None = None
    max_memory_mib: int | None = None
    max_file_mib: int | None = None
    max_cpu_s: int | None = None
    interval_s: int = DEFAULT_INTERVAL_S
    api_token: str | None = field(default=None, repr=False)
    log_level: str = "info"
    failpoint: str | None = None
    failpoint_log: Path | None = None


_SETTINGS: Final[Mapping[str, tuple[Callable[[str], object], str]]] = {
    "state_dir": (lambda text: Path(text).absolute(), "this host's key and journal (/var/lib/control-plane-agent)"),
    "amqp_url": (_broker, "the broker (the one that enrolment gave)"),
    "accounts": (_accounts, "accounts that commands may run as, separated by commas (any)"),
    "max_timeout_s": (_seconds(MAX_TIMEOUT_S), f"the longest timeout that this host takes ({MAX_TIMEOUT_S})"),
    "forbid_sudo": (_yes_or_no, "yes: nothing that a command starts may gain rights (no)"),
    "keep_leftovers": (_yes_or_no, "yes: what a command leaves running when it ends by itself may go on (no)"),
    "containment": (
        _one_of("auto", "freezer", "none"),
        "auto: a cgroup for each command, where there are cgroups; freezer: by the one of v1 (auto)",
    ),
    "max_pids": (_number(4_194_304, "processes"), "processes of a command, by cgroups (4096 by v2, else any number)"),
    "max_memory_mib": (_number(1 << 30, "MiB"), "memory of a command in MiB, by cgroups (any)"),
    "max_file_mib": (_number(1 << 30, "MiB"), "the largest file that a command writes, in MiB (any)"),
    "max_cpu_s": (_seconds(MAX_TIMEOUT_S), "seconds of a processor for each process of a command (any)"),
    "interval_s": (_seconds(3600), f"seconds between heartbeats ({DEFAULT_INTERVAL_S})"),
    "api_token": (str, "for simulate: an administrator's API token (not set)"),
    "log_level": (_one_of("debug", "info", "warning", "error"), "the least that is logged (info)"),
    "failpoint": (str, "for tests: dies at this step (not set)"),
    "failpoint_log": (Path, "for tests: a file that gets the name of each step (not set)"),
}


def load(environment: Mapping[str, str]) -> Settings:
    """Raises ConfigurationError: every wrong one, a line each."""
    values: dict[str, Any] = {}
    wrong = []
    for key, text in sorted(environment.items()):
        if not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX).lower()
        if name not in _SETTINGS:
            wrong.append(f"{key}: there is no such setting")
            continue
        parse, _ = _SETTINGS[name]
        try:
            values[name] = parse(text)
        except ValueError as error:
            wrong.append(f"{key}: {error}")
    if wrong:
        raise ConfigurationError("\n".join(wrong))
    return Settings(**values)


def describe() -> Iterator[str]:
    """One line a setting, with its default, for `--help`."""
    for name, (_, meaning) in _SETTINGS.items():
        yield f"  {PREFIX}{name.upper():<14} {meaning}"
