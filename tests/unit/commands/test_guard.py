import re
import time

import pytest

from control_plane.commands import guard
from control_plane.commands.guard import Guard, GuardLimits, assess

LIMITS = GuardLimits()


def level(command: str = "uptime", *, hosts: int, fleet: int = 100, is_all: bool = False) -> int:
    return assess(command, hosts=hosts, fleet=fleet, is_all=is_all, limits=LIMITS).level


@pytest.mark.parametrize(
    ("hosts", "fleet", "is_all", "expected"),
    [
        (1, 1, True, Guard(1, ())),
        (10, 10, True, Guard(1, ())),
        (11, 100, False, Guard(2, ("more than 10 hosts",))),
        (50, 100, False, Guard(2, ("more than 10 hosts",))),
        (51, 100, False, Guard(3, ("more than 50% of the fleet",))),
        (11, 100, True, Guard(3, ("all hosts",))),
    ],
)
def test_the_level_grows_with_the_number_of_hosts(hosts: int, fleet: int, is_all: bool, expected: Guard) -> None:
    assert assess("uptime", hosts=hosts, fleet=fleet, is_all=is_all, limits=LIMITS) == expected


@pytest.mark.parametrize(
    ("rule", "command"),
    [
        ("recursive delete at /", "rm -rf /"),
        ("recursive delete at /", "rm -fr /*"),
        ("recursive delete at /", "rm -r -f --no-preserve-root /"),
        ("recursive delete at /", "sudo rm --recursive --force '/' && true"),
        ("recursive delete at /", "cd /tmp; rm -R //"),
        ("makes a file system", "mkfs.ext4 /dev/sdb1"),
        ("writes to a device", "dd if=/dev/zero of=/dev/sda bs=1M"),
        ("writes to a device", "cat image > /dev/nvme0n1"),
        ("restarts or stops the machine", "shutdown -r now"),
        ("restarts or stops the machine", "init 6"),
        ("empties the firewall", "iptables -t nat -F"),
        ("empties the firewall", "nft flush ruleset"),
        ("stops ssh or the agent", "systemctl stop sshd"),
        ("stops ssh or the agent", "service ssh stop"),
        ("stops ssh or the agent", "systemctl disable --now control-plane-agent"),
        ("removes users", "userdel -r ada"),
    ],
)
def test_a_risky_command_is_level_three_even_for_one_host(rule: str, command: str) -> None:
    assert assess(command, hosts=1, fleet=100, is_all=False, limits=LIMITS) == Guard(3, (rule,))


@pytest.mark.parametrize(
    "command",
    [
        "uptime",
        "rm -rf /tmp/build",
        "rm /etc/motd",
        "rm -f / nothing",
        "ls -R /",
        "grep -r foo /",
        "dd if=/dev/zero of=/tmp/file",
        "echo done > /dev/null",
        "iptables -L -n",
        "systemctl restart nginx",
        "systemctl status sshd",
        "id ada",
    ],
)
def test_an_everyday_command_is_level_one(command: str) -> None:
    assert level(command, hosts=1) == 1


def test_all_reasons_are_told() -> None:
    found = assess("reboot; userdel ada", hosts=60, fleet=100, is_all=False, limits=LIMITS)

    assert found.rules == ("restarts or stops the machine", "removes users", "more than 50% of the fleet")


@pytest.mark.parametrize(
    "text", ["rm " * 40_000, "rm -r " + "a" * 120_000, "dd " * 40_000, "stop " * 20_000, "-F " * 9999]
)
def test_no_command_makes_the_patterns_slow(text: str) -> None:
    started = time.process_time()

    level(text, hosts=1)

    assert time.process_time() - started < 1


def test_no_pattern_looks_at_the_rest_of_a_text_from_each_of_its_places() -> None:
    """Anything, as often as it goes, and then something: that is quadratic where its beginning is repeated."""
    kept = [each for each in vars(guard).values() if isinstance(each, re.Pattern)]
    kept += [pattern for row in guard._RISKS for pattern in row if isinstance(pattern, re.Pattern)]
    assert len(kept) > 10
    assert [each.pattern for each in kept if re.search(r"\.[*+]|\[\^[^\]]*\][*+]", each.pattern)] == []


@pytest.mark.parametrize("command", ["rm x; ls -r /", "true\nrm -r /", "rm a b\t--recursive\n/", "echo rm rm -r '/'"])
def test_what_belongs_together_is_in_one_part_of_a_command_line(command: str) -> None:
    assert level(command, hosts=1) == (1 if ";" in command else 3)


def test_the_limits_are_settings() -> None:
    limits = GuardLimits(many_hosts=2, fleet_fraction=0.9)

    assert assess("uptime", hosts=3, fleet=4, is_all=False, limits=limits).level == 2
    assert assess("uptime", hosts=4, fleet=4, is_all=False, limits=limits).rules == ("more than 90% of the fleet",)
