"""Registers simulated hosts at a control plane: sim-0001, sim-0002, …, the same keys again for the same API token."""

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from control_plane_agent.enrolment import Server, trusted_keys
from control_plane_agent.errors import TooFastError
from control_plane_agent.identity import Identity
from control_plane_wire.fields import Fields
from control_plane_wire.signing import SigningKey, encode_base64
from control_plane_wire.strict_json import Json, JsonObject

MAX_SIMULATED: Final = 10_000
AT_ONCE: Final = 16
MAX_TRIES: Final = 60  # of one request, with a second between them


def identities_of(server: Server, count: int, groups: Sequence[str], secret: str) -> list[Identity]:
    """Register the hosts that are not there yet, all of them in `groups`.

    Raises:
        EnrolmentError: refused, or not reached.
    """
    keys = trusted_keys(Fields(server.get("/keys")), "items")

    def register(number: int) -> Identity:
        hostname = f"sim-{number:04}"
        key = SigningKey.from_bytes(hashlib.sha256(f"{secret}/{hostname}".encode()).digest())
        named: list[Json] = list(groups)
        body: JsonObject = {"hostname": hostname, "public_key": encode_base64(key.public_key), "groups": named}
        seq = Fields(_posted(server, "/hosts", body)).integer("seq")
        return Identity(hostname=hostname, key=key, keys=keys, groups=dict.fromkeys(groups, seq), enrolled_as_of=seq)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(register, range(1, count + 1)))


def _posted(server: Server, path: str, body: JsonObject) -> JsonObject:
    """Post as fast as the token may. Raises EnrolmentError."""
    for _ in range(MAX_TRIES):
        try:
            return server.post(path, body)
        except TooFastError as error:
            time.sleep(error.wait_s)
    return server.post(path, body)
