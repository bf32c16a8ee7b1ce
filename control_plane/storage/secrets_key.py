"""The key that seals the secrets of tasks, in a file that nobody else may read."""

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import Final

from control_plane.errors import ConfigurationError

NAME: Final = "secrets.key"
KEY_BYTES: Final = 64  # of AES-256-SIV, which takes two keys


def create(state_dir: Path) -> None:
    """Make the key, unless it is there. Raises ConfigurationError."""
    path = state_dir / NAME
    if load(state_dir) is not None:
        return
    temporary = path.with_suffix(".new")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        temporary.rename(path)
        directory = os.open(state_dir, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}; set CONTROL_PLANE_STATE_DIR") from error


def load(state_dir: Path) -> bytes | None:
    """The key, None where there is none yet. Raises ConfigurationError where others may read it, or it is none."""
    path = state_dir / NAME
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigurationError(f"{path} may be read by others (mode {mode:04o}); chmod 600 it")
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except FileNotFoundError:
        return None
    except (OSError, binascii.Error, ValueError) as error:
        raise ConfigurationError(f"{path} is no key for secrets: {error}") from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{path} is no key for secrets: it has {len(key)} bytes and not {KEY_BYTES}")
    return key
