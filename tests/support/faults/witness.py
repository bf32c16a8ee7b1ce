"""The command that is its own witness: each run of it leaves a line in a file outside everything that is killed.

It writes its task_id into the file of the host that it runs on, prints f(task_id) and exits with g(task_id), so that
what is told of it can be computed without it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CODES = 3


@dataclass(frozen=True, slots=True)
class Expected:
    """What a run of a task must have said, whichever host it was on."""

    stdout: str
    exit_code: int

    @property
    def stdout_sha256(self) -> str:
        return hashlib.sha256(self.stdout.encode()).hexdigest()


def expected(task_id: str) -> Expected:
    digest = hashlib.sha256(task_id.encode()).hexdigest()
    return Expected(f"{digest}\n", int(digest[0], 16) % CODES)


def command(directory: Path, *, seconds: float = 0.0) -> str:
    """The shell line. Agents of tests stand in a directory of their host's name, and their supervisors with them."""
    pause = f"sleep {seconds:g}; " if seconds else ""
    return (
        "h=$(readlink /proc/$PPID/cwd); "
        f'echo "$CONTROL_PLANE_TASK_ID" >> {directory}/"${{h##*/}}"; '
        'd=$(printf %s "$CONTROL_PLANE_TASK_ID" | sha256sum); d=${d%% *}; '
        f'{pause}echo "$d"; exit $((0x${{d%"${{d#?}}"}} % {CODES}))'
    )


def read(directory: Path) -> Mapping[str, list[str]]:
    """The task_ids that ran, in their order, by hostname."""
    return {file.name: file.read_text().split() for file in sorted(directory.iterdir())}
