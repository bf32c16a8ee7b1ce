"""Who this host is: its key, the control plane's keys, its groups; in files that nobody else may read."""

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from control_plane_agent.disk import Disk, RealDisk
from control_plane_agent.errors import ConfigurationError
from control_plane_agent.trust import TrustedKeys
from control_plane_agent.witness import objection
from control_plane_wire import strict_json
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.fields import Fields
from control_plane_wire.messages import MAX_KEYS, ConfigureMessage
from control_plane_wire.signing import SigningKey, decode_public_key, encode_base64, key_id
from control_plane_wire.strict_json import Json, JsonObject

DIRECTORY: Final = "identity"
KEY: Final = f"{DIRECTORY}/key"
IDENTITY: Final = f"{DIRECTORY}/identity.json"
MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What enrolment gave this host, and what `configure` has changed since.

    Attributes:
        keys: the control plane's that may sign commands, by key_id, the oldest first.
        retired: its earlier ones: they still verify what is in the journal.
        announced: hex SHA-256 of its next one.
        groups: each with the log position of its assignment; an older command to that group is not for us.
        enrolled_as_of: the log position of the registration; an older command to everybody is not for us.
        configured_as_of: of the last `configure` that was taken since the registration.
        checkpoint: the newest one of the control plane's log that this host has seen: it is a witness.
        amqp_url: the broker's address with our credentials.
    """

    hostname: str
    key: SigningKey
    keys: Mapping[str, bytes]
    groups: Mapping[str, int]
    enrolled_as_of: int
    configured_as_of: int = 0
    retired: Mapping[str, bytes] = field(default_factory=dict)
    checkpoint: str | None = None
    amqp_url: str = field(default="", repr=False)
    announced: str | None = None

    @property
    def own_keys(self) -> TrustedKeys:
        return TrustedKeys(self.keys, self.retired, self.announced)

    @property
    def as_of(self) -> int:
        """The log position that this is the control plane's word of; an older word changes nothing."""
        return max(self.enrolled_as_of, self.configured_as_of)

    def objection(self, message: ConfigureMessage, keys: TrustedKeys) -> str | None:
        """Why the checkpoint of a `configure` does not follow the one that is kept; None where it does."""
        if message.checkpoint is None:
            return None
        return objection(self.checkpoint, message.checkpoint, [*keys.keys.values(), *keys.retired.values()])

    def configured(self, message: ConfigureMessage, keys: TrustedKeys) -> "Identity":
        """What a `configure` makes of it. A checkpoint that does not follow the one that is kept is left out.

        Args:
            keys: what the message makes of the control plane's keys.
        """
        checkpoint = message.checkpoint if self.objection(message, keys) is None else None
        return replace(
            self,
            groups=dict(message.groups),
            configured_as_of=message.as_of,
            checkpoint=checkpoint or self.checkpoint,
            keys=keys.keys,
            retired=keys.retired,
            announced=keys.announced,
        )


class Identities:
    """The identity as it is now, and on the disk before it is used."""

    def __init__(self, disk: Disk, current: Identity) -> None:
        self._disk = disk
        self.current = current

    def replace(self, identity: Identity) -> None:
        save(self._disk, identity)
        self.current = identity


def create_key(state_dir: Path) -> SigningKey:
    """This host's key: the one that is there, or a new one that is durable."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    disk = RealDisk(str(state_dir))
    try:
        _make_dir(disk)
        if KEY.rpartition("/")[2] not in disk.names(DIRECTORY):
            replace_file(disk, KEY, written(SigningKey.generate()))
    finally:
        disk.close()
    return _load_key(state_dir)


def save(disk: Disk, identity: Identity) -> None:
    groups: dict[str, Json] = dict(identity.groups)
    document: JsonObject = {
        "hostname": identity.hostname,
        "keys": [encode_base64(key) for key in identity.keys.values()],
        "retired": [encode_base64(key) for key in identity.retired.values()],
        "groups": groups,
        "enrolled_as_of": identity.enrolled_as_of,
        "configured_as_of": identity.configured_as_of,
        "checkpoint": identity.checkpoint,
        "amqp_url": identity.amqp_url,
        "next_key_sha256": identity.announced,
    }
    _make_dir(disk)
    replace_file(disk, IDENTITY, strict_json.canonical(document) + b"\n")


def load(state_dir: Path) -> Identity:
    """The identity of an enrolled host.

    Raises:
        ConfigurationError: it is not enrolled, or its files are not what they should be.
    """
    path = state_dir / IDENTITY
    try:
        return parse(path.read_bytes(), _load_key(state_dir))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"not enrolled, {error.filename} is missing: run `control-plane-agent enrol`"
        ) from error
    except (OSError, ValueError, MalformedMessageError, SignatureError) as error:
        raise ConfigurationError(f"{path.parent} cannot be read: {error}") from error


def parse(data: bytes, key: SigningKey) -> Identity:
    """What `save` has written; raises MalformedMessageError, SignatureError."""
    read = Fields(strict_json.parse(data, max_bytes=MAX_BYTES))

    def keys(name: str) -> dict[str, bytes]:
        found = (decode_public_key(text) for text in read.texts(name, most=MAX_KEYS, most_bytes=64))
        return {key_id(public_key): public_key for public_key in found}

    groups = Fields(read.object("groups"))
    return Identity(
        hostname=read.hostname(),
        key=key,
        keys=keys("keys"),
        retired=keys("retired"),
        groups={group: groups.integer(group) for group in read.object("groups")},
        enrolled_as_of=read.integer("enrolled_as_of"),
        configured_as_of=read.integer("configured_as_of"),
        checkpoint=read.optional("checkpoint", lambda name: read.text(name, most_bytes=4096)),
        amqp_url=read.text("amqp_url", most_bytes=4096),
        announced=read.optional("next_key_sha256", read.digest),
    )


def _load_key(state_dir: Path) -> SigningKey:
    path = state_dir / KEY
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigurationError(f"{path} may be read by others: chmod 600 it")
    return read_key(path.read_bytes())


def written(key: SigningKey) -> bytes:
    """A private key, as its file has it."""
    return key.to_bytes().hex().encode() + b"\n"


def read_key(data: bytes) -> SigningKey:
    """Raises ValueError."""
    return SigningKey.from_bytes(bytes.fromhex(data.decode("ascii").strip()))


def _make_dir(disk: Disk) -> None:
    if DIRECTORY not in disk.names("."):
        disk.make_dir(DIRECTORY)
        disk.sync_dir(".")


def replace_file(disk: Disk, path: str, data: bytes) -> None:
    """Put a whole file in the place of another: either one is there, at any moment."""
    disk.remove(f"{path}.new")
    disk.create(f"{path}.new", data)
    disk.sync(f"{path}.new")
    disk.rename(f"{path}.new", path)
    disk.sync_dir(DIRECTORY)
