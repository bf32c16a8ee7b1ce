"""The key that seals the secrets of tasks, in a file that nobody else may read."""

import base64
import binascii
import os
from pathlib import Path
from typing import Final

from control_plane.errors import ConfigurationError
from control_plane.storage.key_files import read_private, write_private

NAME: Final = "secrets.key"
KEY_BYTES: Final = 64  # of AES-256-SIV, which takes two keys


def create(state_dir: Path) -> None:
    """Make the key, unless it is there. Raises ConfigurationError."""
    if load(state_dir) is None:
        write_private(state_dir / NAME, base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")


def load(state_dir: Path) -> bytes | None:
    """The key, None where there is none yet. Raises ConfigurationError where others may read it, or it is none."""
    path = state_dir / NAME
    try:
        key = base64.b64decode(read_private(path).strip(), validate=True)
    except FileNotFoundError:
        return None
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError(f"{path} is no key for secrets: {error}") from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{path} is no key for secrets: it has {len(key)} bytes and not {KEY_BYTES}")
    return key
