"""Files that hold keys and passphrases: read only where nobody else may, and written whole and durable."""

import os
import stat
from pathlib import Path
from typing import Final

from control_plane.errors import ConfigurationError

MAX_BYTES: Final = 4096


def read_private(path: Path) -> bytes:
    """What a file holds that nobody else may read.

    Raises:
        FileNotFoundError: there is none.
        ConfigurationError: others may read it, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigurationError(f"{path} may be read by others (mode {mode:04o}); chmod 600 it")
            return file.read(MAX_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def write_private(path: Path, data: bytes) -> None:
    """Write a file whole and durable, or not at all: half a key would lock everybody out. Raises ConfigurationError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.fchmod(file, 0o600)  # one that a crash has left may be wider
            os.write(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}; set CONTROL_PLANE_STATE_DIR") from error


def sync(directory: Path) -> None:
    """Make durable which files a directory has. Raises OSError."""
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
