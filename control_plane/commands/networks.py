"""Networks of addresses, as an API token may be bound to some."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from control_plane.commands.grammar import invalid

Network: TypeAlias = IPv4Network | IPv6Network

MAX_TEXT: Final = 64


def network_of(text: str) -> Network:
    """A network as in 10.0.0.0/8, or one address. Raises ValueError."""
    return ip_network(text)


def checked_network(field: str, text: str) -> Network:
    """Raises InvalidFieldError, also where bits beyond the prefix are set: it is not clear then what was meant."""
    try:
        if len(text) <= MAX_TEXT:
            return network_of(text)
    except ValueError:
        pass
    raise invalid(field, "networks such as 10.0.0.0/8 or 2001:db8::/32, or single addresses")


def is_within(address: str | None, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of them; an IPv4 address that an IPv6 socket was asked from is one."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)
