"""Passkeys, the second factor: whose they are, what an authenticator is asked, and whether its answer holds.

WebAuthn: a private key in a device signs our challenge together with the address of the page that showed it, so a page
elsewhere gets nothing that counts here.
"""

import base64
import binascii
import hashlib
import ipaddress
import secrets
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

import webauthn
from webauthn.helpers import (
    base64url_to_bytes,
    bytes_to_base64url,
    decode_credential_public_key,
    decoded_public_key_to_cryptography,
    parse_attestation_object,
    parse_authentication_credential_json,
    parse_registration_credential_json,
)
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.structs import (
    AttestationConveyancePreference,
    AttestationFormat,
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)
from webauthn.registration.verify_registration_response import VerifiedRegistration

from control_plane.commands.access import User
from control_plane.commands.authenticator_data import check_assertion, check_registration
from control_plane.commands.grammar import checked_line, shown
from control_plane.errors import NotSignedInError, RefusedError
from control_plane.events import access, passkeys
from control_plane.events.event import Event
from control_plane_wire.errors import SignatureError
from control_plane_wire.signing import CONTROL_PLANE, PASSKEY, SigningKey, verify_by_any

MAX_PASSKEYS: Final = 10
CHALLENGE_S: Final = 120
MAX_CHALLENGE: Final = 512  # characters
MAX_CREDENTIAL_ID_BYTES: Final = 1023
MAX_PUBLIC_KEY_BYTES: Final = 2048
RP_NAME: Final = "control plane"
ALGORITHMS: Final = [
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]
# A key that merely lies somewhere is not enough: its device asks for a PIN, a finger or a face.
VERIFICATION: Final = UserVerificationRequirement.REQUIRED

Purpose: TypeAlias = Literal["sign in", "add"]


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """Attributes: `rp_id`: the domain that passkeys are bound to; `origin`: of the pages that may ask for them."""

    rp_id: str
    origin: str


def relying_party_of(url: str) -> RelyingParty | None:
    """The server as browsers see it; None where they know no passkeys: without TLS, or by an address for a name."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    if not name or _is_address(name) or (parts.scheme != "https" and name != "localhost"):
        return None
    default = {"https": 443, "http": 80}.get(parts.scheme)
    port = "" if parts.port in {None, default} else f":{parts.port}"
    return RelyingParty(name, f"{parts.scheme}://{name}{port}")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# --- whose they are --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Passkey:
    """See `events.passkeys.PasskeyAdded`. Attributes: `sign_count`: what it has come to, as far as we saw."""

    passkey_id: str
    username: str
    name: str
    credential_id: str
    public_key: bytes
    sign_count: int
    added_at: int


@dataclass(slots=True)
class PasskeyState:
    """Everybody's passkeys, as the signed events say. `apply` is the only way in."""

    by_id: dict[str, Passkey] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)

    def apply(self, event: Event) -> bool:
        """Take one event in; False where it does not follow from what stands."""
        match event:
            case passkeys.PasskeyAdded():
                return self._add(event)
            case passkeys.PasskeyRemoved(passkey_id=passkey_id):
                self.by_id.pop(passkey_id, None)
                self._ended.add(passkey_id)
            case access.SessionOpened(passkey_id=str() as passkey_id, sign_count=int() as sign_count):
                if (passkey := self.by_id.get(passkey_id)) is not None:
                    passkey.sign_count = max(passkey.sign_count, sign_count)
        return True

    def _add(self, event: passkeys.PasskeyAdded) -> bool:
        if event.passkey_id in self._ended or event.passkey_id in self.by_id:
            return False
        if len(self.of(event.username)) >= MAX_PASSKEYS:
            return False
        try:
            public_key = base64.b64decode(event.public_key, validate=True)
        except binascii.Error:
            return False
        self.by_id[event.passkey_id] = Passkey(
            event.passkey_id,
            event.username,
            event.name,
            event.credential_id,
            public_key,
            event.sign_count,
            event.added_at,
        )
        return True

    def of(self, username: str) -> list[Passkey]:
        """A user's passkeys, oldest first."""
        return [passkey for passkey in self.by_id.values() if passkey.username == username]

    def numbers(self) -> Counter[str]:
        """How many each user has, 0 for those without any."""
        return Counter(passkey.username for passkey in self.by_id.values())


# --- challenges ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Challenge:
    """Attributes: `once`: its id; `changed_seq`: what the user stood at, so any change of the user ends it."""

    username: str
    changed_seq: int
    once: str


def new_challenge(key: SigningKey, purpose: Purpose, user: User, now_s: int) -> str:
    """A challenge that needs no memory: what it is for, its end and our signature are in it, for any replica."""
    head = f"{now_s + CHALLENGE_S}.{secrets.token_hex(16)}.{user.changed_seq}.{user.username}"
    signature = key.sign(PASSKEY, sender=CONTROL_PLANE, recipient=purpose, body=head.encode())
    return f"{head}.{base64.urlsafe_b64encode(signature).decode()}"


def check_challenge(text: str, public_keys: Collection[bytes], purpose: Purpose, now_s: int) -> Challenge:
    """Raises NotSignedInError `challenge_expired` unless this is a challenge of ours for that, and has not ended."""
    head, _, signature = text.rpartition(".")
    try:
        raw = base64.urlsafe_b64decode(signature)
        verify_by_any(public_keys, raw, PASSKEY, sender=CONTROL_PLANE, recipient=purpose, body=head.encode())
        ends_at, once, changed_seq, username = head.split(".", 3)
        has_ended = int(ends_at) < now_s
    except (SignatureError, ValueError) as error:  # and what base64 and encoding raise, which are of that kind
        raise NotSignedInError(
            "challenge_expired", "this is no challenge of this control plane; begin again"
        ) from error
    if has_ended:
        raise NotSignedInError("challenge_expired", "the challenge has ended; begin again")
    return Challenge(username, int(changed_seq), once)


# --- what the browser is asked ---------------------------------------------------------------------------------------


def request_options(party: RelyingParty, challenge: str, known: Collection[Passkey]) -> str:
    """For `navigator.credentials.get`, as JSON; binary values are base64url."""
    options = webauthn.generate_authentication_options(
        rp_id=party.rp_id,
        challenge=challenge.encode(),
        timeout=CHALLENGE_S * 1000,
        allow_credentials=_descriptors(known),
        user_verification=VERIFICATION,
    )
    return webauthn.options_to_json(options)


def creation_options(party: RelyingParty, challenge: str, username: str, known: Collection[Passkey]) -> str:
    """For `navigator.credentials.create`, as JSON; binary values are base64url."""
    options = webauthn.generate_registration_options(
        rp_id=party.rp_id,
        rp_name=RP_NAME,
        user_name=username,
        user_id=hashlib.sha256(f"{party.rp_id} {username}".encode()).digest(),
        challenge=challenge.encode(),
        timeout=CHALLENGE_S * 1000,
        attestation=AttestationConveyancePreference.NONE,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.DISCOURAGED, user_verification=VERIFICATION
        ),
        exclude_credentials=_descriptors(known),
        supported_pub_key_algs=ALGORITHMS,
    )
    return webauthn.options_to_json(options)


def _descriptors(known: Collection[Passkey]) -> list[PublicKeyCredentialDescriptor]:
    return [PublicKeyCredentialDescriptor(id=base64url_to_bytes(passkey.credential_id)) for passkey in known]


class PasskeyRequiredError(NotSignedInError):
    """The password was right, and a passkey has to be shown as well. Attributes: `options`: as JSON."""

    def __init__(self, challenge: str, options: str) -> None:
        super().__init__("passkey_required", "show a passkey as well")
        self.challenge = challenge
        self.options = options


# --- what it answers -------------------------------------------------------------------------------------------------


class PasskeyRefusedError(RefusedError):
    """The authenticator's answer does not hold; `detail` is for the record, whoever asks is told less."""

    def __init__(self, detail: str) -> None:
        super().__init__("passkey_refused", detail)


def decide_added(
    party: RelyingParty, challenge: str, credential: str, *, username: str, name: str, now_s: int
) -> passkeys.PasskeyAdded:
    """A new passkey, from what `navigator.credentials.create` gave, as JSON.

    Raises:
        PasskeyRefusedError: it does not hold.
        RefusedError: `invalid_request`, for the name.
    """
    checked_line("name", name)
    try:
        made = _verified(party, challenge, credential)
    except PasskeyRefusedError:
        raise
    except Exception as error:
        raise PasskeyRefusedError(_said(error)) from error
    if len(made.credential_id) > MAX_CREDENTIAL_ID_BYTES or len(made.credential_public_key) > MAX_PUBLIC_KEY_BYTES:
        raise PasskeyRefusedError("its id or its public key is too long")
    return passkeys.PasskeyAdded(
        passkey_id=passkey_id_of(made.credential_id),
        username=username,
        name=name,
        credential_id=bytes_to_base64url(made.credential_id),
        public_key=base64.b64encode(made.credential_public_key).decode(),
        sign_count=made.sign_count,
        added_at=now_s,
    )


def _verified(party: RelyingParty, challenge: str, credential: str) -> VerifiedRegistration:
    """Raises PasskeyRefusedError, and whatever the library raises of what it cannot read."""
    attestation = parse_registration_credential_json(credential).response.attestation_object
    check_registration(attestation)  # before the library's reader, which takes all of CBOR
    attested = parse_attestation_object(attestation)
    # Whatever vouches for the make of a device is not asked for, and is code that outsiders need not reach.
    if attested.fmt not in {AttestationFormat.NONE, AttestationFormat.PACKED} or attested.att_stmt.x5c:
        raise PasskeyRefusedError(f"an attestation of the form {attested.fmt}")
    made = webauthn.verify_registration_response(
        credential=credential,
        expected_challenge=challenge.encode(),
        expected_rp_id=party.rp_id,
        expected_origin=party.origin,
        require_user_verification=True,
        supported_pub_key_algs=ALGORITHMS,
    )
    decoded_public_key_to_cryptography(decode_credential_public_key(made.credential_public_key))
    return made


def check_shown(
    party: RelyingParty, challenge: str, credential: str, known: Collection[Passkey]
) -> tuple[Passkey, int]:
    """Which of these passkeys was shown, from what `navigator.credentials.get` gave, as JSON; and its sign count.

    Raises:
        PasskeyRefusedError: none of them, or it does not hold.
    """
    try:
        given = parse_authentication_credential_json(credential)
        passkey_id = passkey_id_of(given.raw_id)
        check_assertion(given.response.authenticator_data)  # the library reads it before it looks at the signature
    except Exception as error:
        raise PasskeyRefusedError(_said(error)) from error
    passkey = next((passkey for passkey in known if passkey.passkey_id == passkey_id), None)
    if passkey is None:
        raise PasskeyRefusedError("it is none of the user's")
    try:
        verified = webauthn.verify_authentication_response(
            credential=credential,
            expected_challenge=challenge.encode(),
            expected_rp_id=party.rp_id,
            expected_origin=party.origin,
            credential_public_key=passkey.public_key,
            credential_current_sign_count=0,  # looked at below: only of a signature that holds it says something
            require_user_verification=True,
        )
    except Exception as error:
        raise PasskeyRefusedError(_said(error)) from error
    count = verified.new_sign_count
    if max(count, passkey.sign_count) > 0 and count <= passkey.sign_count:
        went = f"it counted to {count} after {passkey.sign_count}"
        raise PasskeyRefusedError(f"{went}: somebody may have a copy of {passkey.passkey_id}")
    return passkey, count


def passkey_id_of(credential_id: bytes) -> str:
    return hashlib.sha256(credential_id).hexdigest()


def _said(error: Exception) -> str:
    """For the record: the library's words may have in them what an outsider has sent."""
    return shown(f"{type(error).__name__}: {error}")
