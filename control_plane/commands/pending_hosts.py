"""Hosts that ask to be let in without a token: they wait in a side table that grants nothing, for whoever compares.

Anybody may ask, so what waits is bounded: in all, of one address, in time; and nobody pushes another out.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from control_plane.errors import NotAllowedError, RefusedError, TooManyError
from control_plane_wire.proofs import fingerprint

WAIT_S: Final = 86_400
ROOM_S: Final = 60.0  # until it is worth while to ask again
OF_ADDRESS: Final = 4  # the part of all places that one address may take, as a divisor
IPV6_PREFIX: Final = 64  # whoever has one address of it has them all
IPV6_SITE: Final = 48


class PendingHost(NamedTuple):
    """A request. Attributes: `address`: where it came from; `asked_at`: Unix seconds."""

    hostname: str
    public_key: bytes
    address: str | None
    asked_at: int
    is_refused: bool = False

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.public_key)

    @property
    def expires_at(self) -> int:
        return self.asked_at + WAIT_S

    def waits(self, now_s: int) -> bool:
        """Whether somebody may still accept it."""
        return not self.is_refused and now_s < self.expires_at


def decide_place(
    there: Mapping[int, PendingHost], asked: PendingHost, *, most: int, of_address: int | None = None
) -> int | None:
    """In which of `most` places a request waits from now on; None where it waits already.

    Args:
        there: what is in the places, by number.
        of_address: how many of them one address may take; None: a quarter, at least one.

    Raises:
        NotAllowedError: `request_refused`: somebody has said no to this key.
        RefusedError: `request_exists`: this key waits under another name.
        TooManyError: `pending_full`: as many wait as may, of that address or in all.
    """
    now_s = asked.asked_at
    own = next((row for row in there.values() if row.public_key == asked.public_key), None)
    if own is not None and now_s < own.expires_at:
        if own.is_refused:
            raise NotAllowedError("request_refused", "an administrator has refused this host's request")
        if own.hostname != asked.hostname:
            raise RefusedError("request_exists", f"this key waits already, as {own.hostname}")
        return None
    waiting = [row for row in there.values() if row.waits(now_s)]
    near = sum(network_of(row.address) == network_of(asked.address) for row in waiting)
    if near >= (max(1, most // OF_ADDRESS) if of_address is None else of_address):
        raise TooManyError("pending_full", "too many hosts of this address wait already: ask again later", ROOM_S)
    if (place := _free(there, most, now_s)) is None:
        raise TooManyError("pending_full", "too many hosts wait to be accepted: ask again later", ROOM_S)
    return place


def _free(there: Mapping[int, PendingHost], most: int, now_s: int) -> int | None:
    """An empty place, or one whose request is over; of those that were refused the oldest, so that they hear of it."""
    over = sorted((row.asked_at, place) for place, row in there.items() if place <= most and not row.waits(now_s))
    return next((place for place in range(1, most + 1) if place not in there), over[0][1] if over else None)


def network_of(address: str | None) -> str | None:
    """What counts as one sender: an IPv4 address, or an IPv6 network."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((found, IPV6_PREFIX), strict=False))


def site_of(address: str | None) -> str | None:
    """What one customer of a provider has of IPv6; None where the address is none of that."""
    try:
        network = ipaddress.ip_network(network_of(address) or "")
    except ValueError:
        return None
    return None if network.version == 4 else str(network.supernet(new_prefix=IPV6_SITE))


def found_by(there: Iterable[PendingHost], fingerprint: str, now_s: int) -> PendingHost | None:
    """The request that waits under a fingerprint, which is that of its key and not what a table says."""
    return next((row for row in there if row.waits(now_s) and row.fingerprint == fingerprint), None)
