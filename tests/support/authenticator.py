"""A device with passkeys, in software: it does what it is told, also what no real one would do."""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256

PRESENT, VERIFIED, ATTESTED, EXTENDED = 0x01, 0x04, 0x40, 0x80


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


def a_bomb(depth: int) -> bytes:
    """CBOR of ten bytes a level that takes a general reader twice as long with each: a key that refers to itself."""
    lists = b"\xd8\x1c\x82" * depth + b"\xd8\x1c\x81\x00"
    return b"\xa1" + lists + b"".join(b"\xd8\x1d" + cbor2.dumps(at) for at in range(depth, 0, -1)) + b"\x00"


@dataclass
class Device:
    """One passkey. Attributes: `sign_count`: what it counts, None where it does not."""

    origin: str
    sign_count: int | None = 1
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    is_ed25519: bool = False

    def __post_init__(self) -> None:
        self.key: Any = (
            ed25519.Ed25519PrivateKey.generate() if self.is_ed25519 else ec.generate_private_key(ec.SECP256R1())
        )

    def create(self, options: dict[str, Any], **lies: Any) -> dict[str, Any]:
        """What `navigator.credentials.create` gives."""
        rp_id = lies.get("rp_id", options["rp"]["id"])
        flags = lies.get("flags", PRESENT | VERIFIED)
        cose = lies.get("cose", self.cose())
        attested = bytes(16) + len(self.credential_id).to_bytes(2, "big") + self.credential_id + cose
        data = self._data(rp_id, flags | ATTESTED) + attested
        credential = self._credential("webauthn.create", options, {}, lies)
        statement = lies.get("statement", {})
        if lies.get("vouches"):
            client_data = from_base64url(credential["response"]["clientDataJSON"])
            statement = {"alg": -7, "sig": self._sign(data + hashlib.sha256(client_data).digest())}
        whole = {"fmt": lies.get("fmt", "none"), "attStmt": statement, "authData": data}
        credential["response"]["attestationObject"] = base64url(lies.get("attestation", cbor2.dumps(whole)))
        return credential

    def get(self, options: dict[str, Any], **lies: Any) -> dict[str, Any]:
        """What `navigator.credentials.get` gives."""
        if self.sign_count is not None:
            self.sign_count += 1
        data = self._data(lies.get("rp_id", options["rpId"]), lies.get("flags", PRESENT | VERIFIED))
        data += lies.get("more", b"")
        credential = self._credential("webauthn.get", options, {"authenticatorData": base64url(data)}, lies)
        client_data = from_base64url(credential["response"]["clientDataJSON"])
        signature = self._sign(data + hashlib.sha256(client_data).digest())
        credential["response"]["signature"] = base64url(lies.get("signature", signature))
        return credential

    def cose(self) -> bytes:
        if self.is_ed25519:
            return cbor2.dumps({1: 1, 3: -8, -1: 6, -2: self.key.public_key().public_bytes_raw()})
        numbers = self.key.public_key().public_numbers()
        return cbor2.dumps({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")})

    def _sign(self, data: bytes) -> bytes:
        signed: bytes = self.key.sign(data) if self.is_ed25519 else self.key.sign(data, ec.ECDSA(SHA256()))
        return signed

    def _data(self, rp_id: str, flags: int) -> bytes:
        count = (self.sign_count or 0).to_bytes(4, "big")
        return hashlib.sha256(rp_id.encode()).digest() + bytes([flags]) + count

    def _credential(
        self, kind: str, options: dict[str, Any], response: dict[str, str], lies: dict[str, Any]
    ) -> dict[str, Any]:
        client_data = {
            "type": lies.get("type", kind),
            "challenge": lies.get("challenge", options["challenge"]),
            "origin": lies.get("origin", self.origin),
            "crossOrigin": False,
        }
        credential_id = base64url(lies.get("credential_id", self.credential_id))
        return {
            "id": credential_id,
            "rawId": credential_id,
            "type": "public-key",
            "authenticatorAttachment": "cross-platform",
            "clientExtensionResults": {},
            "response": {"clientDataJSON": base64url(json.dumps(client_data).encode()), **response},
        }
