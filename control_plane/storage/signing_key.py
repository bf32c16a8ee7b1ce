"""The control plane's private keys: files that nobody else may read, as they are or encrypted; or given by environment.

    <state_dir>/signing.key          the first one
    <state_dir>/keys/<key_id>.key    each later one, from when it is announced until it is retired

A file is base64 of 32 bytes, or of 12 bytes and what AES-256-GCM makes of them, under a line that says how the
passphrase becomes the key: `argon2id KIB ITERATIONS LANES SALT`. That line is authenticated, too.
"""

import base64
import binascii
import secrets
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from control_plane.argon2 import key_of
from control_plane.errors import ConfigurationError
from control_plane.settings import Settings
from control_plane.storage.key_files import read_private, sync, write_private
from control_plane_wire.signing import SigningKey, is_key_id

NAME: Final = "signing.key"
DIRECTORY: Final = "keys"
KIB, ITERATIONS, LANES = 64 * 1024, 3, 4
MOST_KIB, MOST_ITERATIONS, MOST_LANES = 1024 * 1024, 16, 16  # of a file that somebody else may have written
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
SHORTEST: Final = 12  # characters of a passphrase


@dataclass(frozen=True, slots=True)
class KeyStore:
    """Where the private keys of one process are. All its methods raise ConfigurationError, in one line.

    Attributes:
        passphrase: what files are, or are to be, encrypted with.
        given: those of the environment; then there need be no file.
    """

    state_dir: Path
    passphrase: str | None = field(default=None, repr=False)
    given: tuple[SigningKey, ...] = ()

    @property
    def first(self) -> Path:
        return self.state_dir / NAME

    def path(self, key_id: str) -> Path:
        return self.state_dir / DIRECTORY / f"{key_id}.key"

    def files(self) -> list[Path]:
        """Those that there are."""
        first = [self.first] if self.first.exists() else []
        return [*first, *sorted((self.state_dir / DIRECTORY).glob("*.key"))]

    def create(self) -> SigningKey:
        """Make the first key, or read what is there."""
        if self.given or self.files():
            return self.load()[0]
        key = SigningKey.generate()
        self._write(self.first, key)
        return key

    def load(self) -> list[SigningKey]:
        """All that are held, those of the environment before those of files; at least one."""
        keys = [*self.given, *(self.read(path) for path in self.files())]
        if not keys:
            raise ConfigurationError(f"there is no {self.first}; `control-plane init` makes it")
        return keys

    def find(self, key_id: str) -> SigningKey | None:
        """The one of that id, None where it is not here."""
        path = self.path(key_id)
        found = [*self.given, *([self.read(path)] if is_key_id(key_id) and path.exists() else [])]
        if not any(key.key_id == key_id for key in found) and self.first.exists():
            found.append(self.read(self.first))
        return next((key for key in found if key.key_id == key_id), None)

    def put(self, key: SigningKey) -> Path:
        """Keep a later key."""
        path = self.path(key.key_id)
        self._write(path, key)
        return path

    def delete(self, key_id: str) -> list[Path]:
        """Delete the files of a key; which."""
        gone = [path for path in self.files() if self.read(path).key_id == key_id]
        for path in gone:
            try:
                path.unlink()
                sync(path.parent)
            except OSError as error:
                raise ConfigurationError(f"cannot delete {path}: {error.strerror}") from error
        return gone

    def encrypt(self) -> list[Path]:
        """Encrypt each file that is not, in place; which."""
        if self.passphrase is None:
            raise ConfigurationError("CONTROL_PLANE_KEY_PASSPHRASE_FILE or CONTROL_PLANE_KEY_PASSPHRASE is not set")
        return [path for path in self.files() if not _is_encrypted(_read(path)) and self._write(path, self.read(path))]

    def decrypt(self) -> list[Path]:
        """Write each file that is encrypted as it is without, in place; which."""
        plain = KeyStore(self.state_dir)
        return [path for path in self.files() if _is_encrypted(_read(path)) and plain._write(path, self.read(path))]

    def read(self, path: Path) -> SigningKey:
        data = _read(path)
        if not _is_encrypted(data):
            return _key(path, data)
        if self.passphrase is None:
            raise ConfigurationError(f"{path} is encrypted: set CONTROL_PLANE_KEY_PASSPHRASE_FILE")
        header, _, text = data.partition(b"\n")
        try:
            sealed = base64.b64decode(text.strip(), validate=True)
            opener = AESGCM(_derived(header, self.passphrase))
            return SigningKey.from_bytes(opener.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], header))
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise ConfigurationError(f"{path}: the passphrase is another one, or the file is damaged") from error

    def _write(self, path: Path, key: SigningKey) -> bool:
        seed, passphrase = key.to_bytes(), self.passphrase
        data = base64.b64encode(seed) + b"\n" if passphrase is None else _sealed(seed, passphrase)
        write_private(path, data)
        return True


def store_of(settings: Settings) -> KeyStore:
    """Where the settings say that the keys are. Raises ConfigurationError."""
    passphrase = settings.key_passphrase.get_secret_value() if settings.key_passphrase else None
    if settings.key_passphrase_file is not None:
        passphrase = _passphrase(settings.key_passphrase_file)
    if passphrase is not None and len(passphrase) < SHORTEST:
        raise ConfigurationError(f"the passphrase of the signing key has fewer than {SHORTEST} characters")
    given = settings.signing_key.get_secret_value().split(",") if settings.signing_key else []
    return KeyStore(settings.state_dir, passphrase, tuple(map(_given, given)))


def _given(text: str) -> SigningKey:
    try:
        return SigningKey.from_bytes(base64.b64decode(text.strip(), validate=True))
    except (binascii.Error, ValueError):  # whose text may hold what was given
        raise ConfigurationError("CONTROL_PLANE_SIGNING_KEY is no signing key: it is base64 of 32 bytes") from None


def _passphrase(path: Path) -> str:
    try:
        return _read(path).decode().strip()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is no passphrase: it is not UTF-8") from None


def _read(path: Path) -> bytes:
    try:
        return read_private(path)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _key(path: Path, data: bytes) -> SigningKey:
    try:
        return SigningKey.from_bytes(base64.b64decode(data.strip(), validate=True))
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{path} is no signing key: it is base64 of 32 bytes") from None


# --- encryption -------------------------------------------------------------------------------------------------


def _is_encrypted(data: bytes) -> bool:
    return data.startswith(b"argon2id ")


def _sealed(seed: bytes, passphrase: str) -> bytes:
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    header = f"argon2id {KIB} {ITERATIONS} {LANES} {base64.b64encode(salt).decode()}".encode()
    sealed = nonce + AESGCM(_derived(header, passphrase)).encrypt(nonce, seed, header)
    return header + b"\n" + base64.b64encode(sealed) + b"\n"


def _derived(header: bytes, passphrase: str) -> bytes:
    """The key of a passphrase, as a header says. Raises ValueError for one that would take too much."""
    _, kib, iterations, lanes, salt = header.split(b" ")
    cost = (int(kib), int(iterations), int(lanes))
    if any(not 0 < each <= most for each, most in zip(cost, (MOST_KIB, MOST_ITERATIONS, MOST_LANES), strict=True)):
        raise ValueError("its cost is out of bounds")
    return key_of(
        unicodedata.normalize("NFC", passphrase),
        salt=base64.b64decode(salt, validate=True),
        memory_kib=cost[0],
        iterations=cost[1],
        lanes=cost[2],
    )
