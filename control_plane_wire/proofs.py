"""What a host signs, beside messages, to prove that a key is its own; and the text of a key that people compare.

Each body names what it is for, so that a proof of one thing is none of another.
"""

import hashlib
from typing import Final

from control_plane_wire import strict_json
from control_plane_wire.signing import encode_base64

GROUP: Final = 4


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of the raw public key: 64 hex digits."""
    return hashlib.sha256(public_key).hexdigest()


def in_groups(fingerprint: str) -> str:
    """The same digits, as people read them to each other."""
    return " ".join(fingerprint[start : start + GROUP] for start in range(0, len(fingerprint), GROUP))


def of_request(hostname: str, public_key: bytes, nonce: str) -> bytes:
    """Signed by the key with which a host asks to be let in."""
    return strict_json.canonical(
        {"for": "request", "hostname": hostname, "nonce": nonce, "public_key": encode_base64(public_key)}
    )


def of_rotation(hostname: str, public_key: bytes, nonce: str) -> bytes:
    """Signed by the key that the host has, and by the new one, which is `public_key`."""
    return strict_json.canonical(
        {"for": "rotation", "hostname": hostname, "nonce": nonce, "public_key": encode_base64(public_key)}
    )
