"""How a host that is not known yet proves that it may be, and that the key it brings is its own."""

import base64
import binascii
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from control_plane.commands.access import ROLES, new_token, token_id_of
from control_plane.commands.grammar import checked_name, checked_number
from control_plane.commands.hosts import checked_groups
from control_plane.commands.passwords import digest
from control_plane.errors import NotSignedInError, RefusedError
from control_plane.events import access, enrolment, hosts
from control_plane.events.event import Event
from control_plane_wire import strict_json
from control_plane_wire.errors import SignatureError
from control_plane_wire.signing import CONTROL_PLANE, ENROL, SigningKey, encode_base64, verify, verify_by_any

PERMISSION: Final = "hosts.enrol"
PREFIX: Final = "cpe"
MAX_TOKEN_S: Final = 3600
NONCE_S: Final = 120
KEPT_S: Final = 86_400  # a token is remembered beyond its end: a clock may be set back


@dataclass(slots=True)
class EnrolmentToken:
    token_id: str
    token_sha256: str
    hostname: str | None
    groups: tuple[str, ...]
    expires_at: int
    created_by: str
    made_with: str | None = None  # the API token that it was made with, and ends with
    used_by: tuple[str, str] | None = None  # hostname and public key
    revoked: bool = False


@dataclass(slots=True)
class EnrolmentState:
    tokens: dict[str, EnrolmentToken] = field(default_factory=dict)

    def apply(self, event: Event) -> bool:
        """Take one event in; False where it does not follow from what stands."""
        match event:
            case enrolment.EnrolmentTokenCreated():
                if event.token_id in self.tokens:
                    return False
                self.tokens[event.token_id] = EnrolmentToken(
                    event.token_id,
                    event.token_sha256,
                    event.hostname,
                    event.groups,
                    event.expires_at,
                    event.created_by,
                    event.made_with,
                )
            case enrolment.EnrolmentTokenUsed():
                if (token := self.tokens.get(event.token_id)) is not None:
                    if token.used_by is not None:
                        return False
                    token.used_by = (event.hostname, event.public_key)
            case enrolment.EnrolmentTokenRevoked():
                if (token := self.tokens.get(event.token_id)) is not None:
                    token.revoked = True
            case access.UserDisabled(username=username):
                self._revoke_of(username)
            case access.UserRoleChanged(username=username, role=role):
                if PERMISSION not in ROLES.get(role, ()):
                    self._revoke_of(username)
            case hosts.HostRevoked(hostname=hostname) | hosts.HostRetired(hostname=hostname):
                # The repeat of an enrolment, after a lost answer, must not bring back a host that was sent away.
                for token in self.tokens.values():
                    token.revoked |= token.used_by is not None and token.used_by[0] == hostname
        return True

    def forget(self, now_s: int) -> None:
        """Drop the tokens that ended long ago. They would be refused, and a copy of their event would be, too."""
        self.tokens = {key: token for key, token in self.tokens.items() if token.expires_at > now_s - KEPT_S}

    def _revoke_of(self, username: str) -> None:
        """Nobody lets hosts in who could not make such a token any more."""
        for token in self.tokens.values():
            token.revoked |= token.created_by == username


def decide_token(
    *, hostname: str | None, groups: tuple[str, ...], expires_in: int, by: str, made_with: str | None, now_s: int
) -> tuple[enrolment.EnrolmentTokenCreated, str]:
    """A new token: its event, and its text, which is shown once."""
    token_id, text = new_token(PREFIX)
    event = enrolment.EnrolmentTokenCreated(
        token_id=token_id,
        token_sha256=digest(text),
        groups=checked_groups(groups),
        expires_at=now_s + checked_number("expires_in", expires_in, least=1, most=MAX_TOKEN_S),
        created_by=by,
        hostname=None if hostname is None else checked_name("hostname", hostname),
        made_with=made_with,
    )
    return event, text


def check_token(
    state: EnrolmentState,
    text: str,
    *,
    hostname: str,
    public_key: bytes,
    now_s: int,
    has_ended: Callable[[EnrolmentToken], bool],
) -> EnrolmentToken:
    """The token, if this host with this key may use it now, or has used it already.

    Args:
        has_ended: whether somebody has ended it.

    Raises:
        NotSignedInError: it may not; the reason is not told to somebody who merely guesses.
    """
    token_id = token_id_of(text, PREFIX)
    token = state.tokens.get(token_id) if token_id else None
    if token is None or not secrets.compare_digest(token.token_sha256, digest(text)):
        raise NotSignedInError("enrolment_refused", "the enrolment token is not valid")
    if has_ended(token) or token.expires_at <= now_s:
        raise NotSignedInError("enrolment_refused", "the enrolment token has ended; ask for a new one")
    if token.hostname not in {None, hostname}:
        raise NotSignedInError("enrolment_refused", f"the enrolment token is for {token.hostname}")
    if token.used_by not in {None, (hostname, encode_base64(public_key))}:
        raise NotSignedInError("enrolment_refused", "the enrolment token was used by another host or key")
    return token


def new_nonce(key: SigningKey, now_s: int) -> str:
    """A nonce that needs no memory: its end and our signature are in it, so any replica can check it."""
    head = f"{now_s + NONCE_S}.{secrets.token_hex(16)}"
    signature = key.sign(ENROL, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=head.encode())
    return f"{head}.{base64.urlsafe_b64encode(signature).decode()}"


def check_nonce(nonce: str, public_keys: Collection[bytes], now_s: int) -> int:
    """When it ends, in Unix seconds.

    Raises:
        RefusedError: it is no nonce of ours, by any of the keys that sign now, or has ended.
    """
    head, _, signature = nonce.rpartition(".")
    try:
        raw = base64.urlsafe_b64decode(signature)
        verify_by_any(public_keys, raw, ENROL, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=head.encode())
        ends = int(head.partition(".")[0])
    except (SignatureError, binascii.Error, ValueError) as error:
        raise RefusedError("nonce_expired", "this is no nonce of this control plane; begin again") from error
    if ends < now_s:
        raise RefusedError("nonce_expired", "the nonce has ended; begin again")
    return ends


def check_proof(proof: bytes, *, token: str, hostname: str, public_key: bytes, nonce: str) -> None:
    """Raises RefusedError unless the host's private key has signed this very enrolment."""
    body = strict_json.canonical(
        {
            "hostname": hostname,
            "nonce": nonce,
            "public_key": encode_base64(public_key),
            "token_sha256": digest(token),
        }
    )
    check_signed(proof, public_key, hostname, body)


def check_signed(proof: bytes, public_key: bytes, hostname: str, body: bytes) -> None:
    """Raises RefusedError unless the private key has signed this body for this host."""
    try:
        verify(public_key, proof, ENROL, sender=hostname, recipient=CONTROL_PLANE, body=body)
    except SignatureError as error:
        raise RefusedError("proof_refused", "the proof is not the key's signature over this enrolment") from error
