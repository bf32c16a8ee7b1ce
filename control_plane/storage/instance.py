"""Which process works on a state directory, so that the next one need not wait for the leases of a dead one."""

import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAME: Final = "instance"


@dataclass(frozen=True, slots=True)
class Instance:
    """Attributes: `owner`: of leases, unlike any other's; `predecessor`: the same of one that is certainly dead."""

    owner: str
    predecessor: str | None


@contextmanager
def instance(state_dir: Path) -> Iterator[Instance]:
    """Say who we are inside this block. A lock ends with its process, so whoever gets it succeeds a dead one."""
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    with (state_dir / NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another one lives on this directory, with other roles perhaps
            yield Instance(owner, None)
            return
        file.seek(0)
        predecessor = file.read().strip()
        file.truncate(0)
        file.write(f"{owner}\n")
        file.flush()
        yield Instance(owner, predecessor or None)
