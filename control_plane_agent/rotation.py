"""Another key for this host, beside the one that it has, until the control plane knows it and the agent has taken it.

    rotation.json   the new key, durable before anybody hears of it; then what the control plane answered

Whoever holds the state directory takes the new key: the agent that runs, or its next start. Until then the old one
counts, and until the first message with the new one both do; so whatever is killed where, one of them works.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from control_plane_agent.disk import Disk
from control_plane_agent.errors import ConfigurationError
from control_plane_agent.identity import DIRECTORY, IDENTITY, KEY, parse, read_key, replace_file, save, written
from control_plane_wire import proofs, strict_json
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.fields import Fields
from control_plane_wire.lifecycle import Service, run_until_stopped, wait_for_any
from control_plane_wire.signing import CONTROL_PLANE, ENROL, SigningKey, encode_base64
from control_plane_wire.strict_json import JsonObject

ROTATION: Final = f"{DIRECTORY}/rotation.json"
MAX_BYTES: Final = 8192
LOOK_S: Final = 1.0

log = logging.getLogger(__name__)


class Server(Protocol):
    """See `enrolment.Server`."""

    def post(self, path: str, body: JsonObject) -> JsonObject: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Attributes: `is_known`: the control plane takes the key; `amqp_url`: the broker's address for it, if another."""

    key: SigningKey
    is_known: bool = False
    amqp_url: str | None = None


def ask(disk: Disk, server: Server, *, prescribed_url: str | None = None) -> Rotation:
    """Make a new key known to the control plane, or the one that was made before and perhaps is known already.

    Args:
        prescribed_url: the broker's address that settings prescribe, where they do.

    Raises:
        EnrolmentError: refused, or not reached: the same again is safe.
        ConfigurationError: the new key has an account of its own, and settings prescribe the old one's.
    """
    found = find(disk)
    if found is not None and found.is_known:
        return found
    new = SigningKey.generate() if found is None else found.key
    if found is None:
        _write(disk, Rotation(key=new))
    old = read_key(disk.read(KEY))
    hostname = parse(disk.read(IDENTITY), old).hostname
    who: JsonObject = {"hostname": hostname, "public_key": encode_base64(new.public_key)}
    nonce = Fields(server.post("/enrol/begin", who)).text("nonce", most_bytes=1024)
    body = proofs.of_rotation(hostname, new.public_key, nonce)
    proof, new_proof = (
        encode_base64(key.sign(ENROL, sender=hostname, recipient=CONTROL_PLANE, body=body)) for key in (old, new)
    )
    read = Fields(server.post("/enrol/rotate", {**who, "nonce": nonce, "proof": proof, "new_proof": new_proof}))
    amqp_url = read.optional("amqp_url", lambda name: read.text(name, most_bytes=4096))
    if f"h-{old.key_id}-" in (prescribed_url or "") and f"h-{new.key_id}-" in (amqp_url or ""):
        raise ConfigurationError(
            "CONTROL_PLANE_AGENT_AMQP_URL names the account of the key that is to go: unset it, and the agent uses the "
            "one that it is given"
        )
    known = Rotation(key=new, is_known=True, amqp_url=amqp_url)
    _write(disk, known)
    return known


def take(disk: Disk) -> bool:
    """Have the new key in the place of the old, where the control plane knows it; whether there was one.

    It may be killed anywhere and done again. Only for whoever holds the state directory.
    """
    found = find(disk)
    if found is None or not found.is_known:
        return False
    identity = parse(disk.read(IDENTITY), found.key)
    save(disk, replace(identity, amqp_url=found.amqp_url or identity.amqp_url))
    replace_file(disk, KEY, written(found.key))
    disk.remove(ROTATION)
    disk.sync_dir(DIRECTORY)
    return True


def find(disk: Disk) -> Rotation | None:
    """The rotation that is under way. Raises ConfigurationError where its file is not what it should be."""
    with contextlib.suppress(FileNotFoundError):
        try:
            read = Fields(strict_json.parse(disk.read(ROTATION), max_bytes=MAX_BYTES))
            return Rotation(
                key=read_key(read.text("key", most_bytes=128).encode()),
                is_known=read.boolean("known"),
                amqp_url=read.optional("amqp_url", lambda name: read.text(name, most_bytes=4096)),
            )
        except (MalformedMessageError, ValueError) as error:
            raise ConfigurationError(f"{ROTATION} cannot be read: {error}; remove it to begin again") from error
    return None


def _write(disk: Disk, rotation: Rotation) -> None:
    document: JsonObject = {
        "key": written(rotation.key).decode().strip(),
        "known": rotation.is_known,
        "amqp_url": rotation.amqp_url,
    }
    replace_file(disk, ROTATION, strict_json.canonical(document) + b"\n")


class Renewed:
    """An agent as a service, and another one in its place as soon as there is a new key to take.

    Args:
        again: takes the key, and makes an agent that has it.
        drain_s: what the one before may take to end in order.
    """

    name = "agent"

    def __init__(self, disk: Disk, agent: Service, again: Callable[[], Service], *, drain_s: float) -> None:
        self._disk = disk
        self._agent = agent
        self._again = again
        self._drain_s = drain_s

    async def run(self, stop: asyncio.Event) -> None:
        while True:
            watch = _Watch(self._disk, stop)
            try:
                await run_until_stopped([self._agent, watch], stop=asyncio.Event(), drain_s=self._drain_s)
            except TimeoutError:
                log.warning("not ended in order", extra={"seconds": self._drain_s})
            if stop.is_set():
                return
            self._agent = self._again()


class _Watch:
    """Ends the services beside it when there is a new key to take, or when `outer` is set."""

    name = "rotation"

    def __init__(self, disk: Disk, outer: asyncio.Event) -> None:
        self._disk = disk
        self._outer = outer

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await wait_for_any(self._outer, stop, timeout_s=LOOK_S)
            if self._outer.is_set() or self._is_due():
                stop.set()

    def _is_due(self) -> bool:
        with contextlib.suppress(ConfigurationError, OSError):
            found = find(self._disk)
            return found is not None and found.is_known
        return False
