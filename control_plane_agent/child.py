"""From the supervisor's child to the asked-for command: sheds all that is the agent's. Standard library alone."""

import contextlib
import os
import pwd
import resource
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from control_plane_agent.cgroups import Limits
from control_plane_agent.containment import EXECUTION, Containment, libc

NOT_FOUND: Final = 127
NOT_RUN: Final = 126
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_LIMITS: Final = ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 65_536), (resource.RLIMIT_NPROC, 4096))
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


class Account(NamedTuple):
    name: str
    uid: int
    gid: int
    groups: Sequence[int]
    home: str
    shell: str


class Program(NamedTuple):
    """What to execute, as whom and where.

    Attributes:
        cwd: the directory that was asked for, else None: home, or the root where there is no home.
        stdin, stdout, stderr: descriptors.
        forbids_sudo: whether nothing that it starts may ever gain rights.
        limits: of these, those of a process.
    """

    argv: list[str]
    environment: Mapping[str, str]
    account: Account
    cwd: str | None
    stdin: int
    stdout: int
    stderr: int
    forbids_sudo: bool
    limits: Limits


def find_account(name: str) -> Account:
    """Raises KeyError where there is none of this name."""
    found = pwd.getpwnam(name)
    groups = os.getgrouplist(found.pw_name, found.pw_gid)
    return Account(found.pw_name, found.pw_uid, found.pw_gid, groups, found.pw_dir, found.pw_shell or "/bin/sh")


def environment(command: Mapping[str, Any], account: Account, nonce: str) -> dict[str, str]:
    """From nothing: no variable of the agent reaches a command."""
    return {
        "PATH": SEARCH_PATH,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": account.shell,
        "LANG": "C.UTF-8",
        **(command.get("env") or {}),
        "CONTROL_PLANE_TASK_ID": command["task_id"],
        EXECUTION: nonce,
    }


def argv(command: Mapping[str, Any]) -> list[str]:
    given: list[str] | None = command.get("argv")
    return given or ["/bin/sh", "-c", command["command"]]


def execute(program: Program, containment: Containment, parent: int) -> NoReturn:
    """Become the command; what prevents that goes to its standard error, and the exit status is 127 or 126."""
    status = NOT_RUN
    try:
        os.setsid()
        containment.join()
        _limit(program.limits)
        os.umask(0o027)
        for descriptor, number in ((program.stdin, 0), (program.stdout, 1), (program.stderr, 2)):
            os.dup2(descriptor, number)
        _become(program.account)
        _enter(program)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after setuid, which clears it
        if program.forbids_sudo:
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getppid() == parent:  # else it died before it could be noticed, and nobody would read the output
            os.execvpe(program.argv[0], program.argv, program.environment)  # noqa: S606 - the shell is in argv
    except FileNotFoundError as error:
        status = NOT_FOUND
        _say(f"{program.argv[0]}: not found" if error.filename else str(error))
    except Exception as error:  # noqa: BLE001 - nobody is there to catch it
        _say(f"cannot start: {error}")
    finally:
        os._exit(status)


def _limit(limits: Limits) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):  # a number that the C library keeps for itself
            signal.signal(number, signal.SIG_DFL)  # ignored or handled by us, or by who started the agent
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("0")
    mine = (
        (resource.RLIMIT_FSIZE, None if limits.file_mib is None else limits.file_mib << 20),
        (resource.RLIMIT_CPU, limits.cpu_s),
    )
    for which, most in (*_LIMITS, *mine):
        if most is None:
            continue
        _, hard = resource.getrlimit(which)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (bound, bound))


def _become(account: Account) -> None:
    if os.geteuid() == 0:
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    if os.getresuid() != (account.uid,) * 3 or os.getresgid() != (account.gid,) * 3:
        raise PermissionError(f"this agent cannot become {account.name}")
    if account.uid != 0:
        with contextlib.suppress(PermissionError):
            os.setuid(0)
            raise OSError("the rights of root did not go")


def _enter(program: Program) -> None:
    try:
        os.chdir(program.account.home if program.cwd is None else program.cwd)
    except OSError as error:
        if program.cwd is not None:
            raise type(error)(f"its directory {program.cwd} cannot be entered: {error.strerror}") from error
        os.chdir("/")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"control-plane-agent: {text}\n".encode())
