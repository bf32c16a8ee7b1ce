"""The control plane's signing key, in a file that nobody else may read."""

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import Final

from control_plane.errors import ConfigurationError
from control_plane_wire.signing import SigningKey

NAME: Final = "signing.key"


def create(state_dir: Path) -> SigningKey:
    """Make the key, or read the one that is there. Raises ConfigurationError."""
    path = state_dir / NAME
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            return load(state_dir)
        key = SigningKey.generate()
        _write(path, base64.b64encode(key.to_bytes()) + b"\n")
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}; set CONTROL_PLANE_STATE_DIR") from error
    return key


def load(state_dir: Path) -> SigningKey:
    """Read the key. Raises ConfigurationError where there is none, or others may read it."""
    path = state_dir / NAME
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigurationError(f"{path} may be read by others (mode {mode:04o}); chmod 600 it")
        return SigningKey.from_bytes(base64.b64decode(path.read_bytes().strip(), validate=True))
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no {path}; `control-plane init` makes it") from error
    except (OSError, binascii.Error, ValueError) as error:
        raise ConfigurationError(f"{path} is no signing key: {error}") from error


def _write(path: Path, data: bytes) -> None:
    """Whole and durable, or not at all: a half-written key would lock everybody out."""
    temporary = path.with_suffix(".new")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(file, data)
        os.fsync(file)
    finally:
        os.close(file)
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
