"""Whose a message is: by which of its keys the host has signed it, and that the broker's account is its own."""

from collections.abc import Iterable
from typing import Final

from control_plane.commands.hosts import FleetState, Host
from control_plane.events.hosts import HostKeySwitched
from control_plane.messaging.broker_accounts import is_account, is_account_of
from control_plane_wire import signing
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.messages import Signed
from control_plane_wire.transport.base import Delivery

UNKNOWN_HOST: Final = "no registered host"


def signer_of(fleet: FleetState, hostname: str, delivery: Delivery, signed: Signed, tag: str) -> bytes:
    """The public key with which this host has signed it: one of two while it rotates.

    Raises:
        MalformedMessageError: there is no such host (any more); the reason begins with UNKNOWN_HOST.
        SignatureError: it is not the host's, or the result of one that is revoked: evidence, and nothing else.
    """
    keys, host = fleet.public_keys(hostname), fleet.hosts.get(hostname)
    if host is None or not keys:
        if host is not None and tag == signing.RESULT:
            raise SignatureError(f"{hostname} is {host.status}: its results do not count")
        raise MalformedMessageError(f"{UNKNOWN_HOST} {hostname}")
    _check_account(host, delivery.user_id or "")
    for public_key in keys[:-1]:
        try:
            signed.verify(public_key, tag, sender=hostname, recipient=signing.CONTROL_PLANE)
        except SignatureError:
            continue
        return public_key
    signed.verify(keys[-1], tag, sender=hostname, recipient=signing.CONTROL_PLANE)
    return keys[-1]


def _check_account(host: Host, user: str) -> None:
    """One that was for an older key of the host may have been made by hand, and is its own all the same."""
    if is_account(user) and not any(is_account_of(user, key) for key in (*host.keys, *host.old_keys)):
        raise SignatureError(f"it was published by {user}, which is another host's account")


def switches(fleet: FleetState, signers: Iterable[tuple[str, bytes]]) -> list[HostKeySwitched]:
    """What is to be recorded of hosts that have signed, each with a public key: whose new one has come into use."""
    hosts = {hostname: fleet.hosts[hostname] for hostname, key in signers if key == fleet.hosts[hostname].new_key}
    return [
        HostKeySwitched(hostname=hostname, rotated_seq=host.rotated_seq, key_id=signing.key_id(host.new_key))
        for hostname, host in hosts.items()
        if host.new_key is not None
    ]
