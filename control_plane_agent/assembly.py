"""Puts agents together: the one place that chooses implementations."""

import logging
import secrets
from pathlib import Path

from control_plane_agent.cgroups import Limits
from control_plane_agent.containment import cannot_limit
from control_plane_agent.disk import RealDisk
from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.executor import LauncherExecutor
from control_plane_agent.facts import MachineFacts, SimulatedFacts
from control_plane_agent.identity import Identities, Identity
from control_plane_agent.journal import LEAST_TOMBSTONE_S, Journal
from control_plane_agent.memory_disk import MemoryDisk
from control_plane_agent.policy import AnyPolicy, HostPolicy
from control_plane_agent.session import Agent
from control_plane_agent.settings import Settings
from control_plane_agent.simulation import SimulatedExecutor
from control_plane_wire.clock import SystemClock
from control_plane_wire.failpoints import Failpoints
from control_plane_wire.messages import DEFAULT_INTERVAL_S
from control_plane_wire.transport.base import Transport

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger(__name__)


def real_agent(settings: Settings, who: Identity, transport: Transport) -> Agent:
    """The agent of this machine; its state directory is there, and no other agent works on it."""
    clock, disk, boot_id = SystemClock(), RealDisk(str(settings.state_dir)), BOOT_ID.read_text().strip()
    failpoints = Failpoints(settings.failpoint, settings.failpoint_log)
    limits = Limits(settings.max_pids, settings.max_memory_mib, settings.max_file_mib, settings.max_cpu_s)
    if missing := cannot_limit(settings.containment, limits):
        refuses = bool(limits.of_cgroups.intersection(missing))
        log.warning("commands cannot be limited", extra={"limits": missing, "all_are_refused": refuses})
    executor = LauncherExecutor(
        settings.state_dir,
        clock,
        boot_id=boot_id,
        containment=settings.containment,
        forbids_sudo=settings.forbid_sudo,
        keeps_leftovers=settings.keep_leftovers,
        limits=limits,
        failpoint=settings.failpoint,
        failpoint_log=None if settings.failpoint_log is None else str(settings.failpoint_log),
    )
    return Agent(
        Identities(disk, who),
        transport,
        Journal(disk, clock, failpoints=failpoints),
        DiskThread(is_blocking=disk.is_blocking),
        executor,
        HostPolicy(accounts=settings.accounts, max_timeout_s=settings.max_timeout_s),
        MachineFacts(limits_missing=missing),
        clock,
        boot_id=boot_id,
        interval_s=settings.interval_s,
        is_live=True,
        failpoints=failpoints,
    )


def simulated_agent(number: int, who: Identity, transport: Transport, *, interval_s: int = DEFAULT_INTERVAL_S) -> Agent:
    """The agent of a host that is not there: all of it is real but the disk, the facts and the commands."""
    clock, disk = SystemClock(), MemoryDisk()
    return Agent(
        Identities(disk, who),
        transport,
        Journal(disk, clock, tombstone_s=LEAST_TOMBSTONE_S),  # 10 KiB each, and there may be thousands of hosts
        DiskThread(is_blocking=disk.is_blocking),
        SimulatedExecutor(disk, clock, hostname=who.hostname, number=number),
        AnyPolicy(),
        SimulatedFacts(number),
        clock,
        boot_id=f"simulated-{secrets.token_hex(8)}",
        interval_s=interval_s,
        keeps_journal=False,
    )
