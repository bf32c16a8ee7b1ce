"""Hosts that have asked to be let in without a token: listed, accepted or refused by the fingerprints of their keys."""

from typing import Annotated

from fastapi import Path
from pydantic import Field

from control_plane.api.fields import Answer, Items, Name, Request, Seq, Time, at_s, wait_for_authority
from control_plane.api.hosts import HostChange
from control_plane.api.routing import SENSITIVE, noun
from control_plane.api.services import Caller, Given
from control_plane_wire.signing import encode_base64

router = noun("/pending-hosts", "enrolment")

Fingerprint = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="hex SHA-256 of the raw public key")]


class PendingHost(Answer):
    """A host that waits.

    Attributes:
        fingerprint: what its agent shows, too.
        address: where it asked from.
        name_taken: a host of that name is registered, so accepting this one is refused until that one is retired.
    """

    fingerprint: str
    hostname: str
    public_key: str
    address: str | None
    asked_at: Time
    expires_at: Time
    name_taken: bool


class AcceptHost(Request):
    """Attributes: `hostname`: the name that it asked for."""

    hostname: Name
    groups: list[Name] = Field(default=[], max_length=64)


@router.get("")
async def list_pending_hosts(services: Given, caller: Caller, min_seq: Seq | None = None) -> Items[PendingHost]:
    """Those that wait, the oldest first."""
    await wait_for_authority(services, min_seq)
    return Items(
        items=[
            PendingHost(
                fingerprint=row.fingerprint,
                hostname=row.hostname,
                public_key=encode_base64(row.public_key),
                address=row.address,
                asked_at=at_s(row.asked_at),
                expires_at=at_s(row.expires_at),
                name_taken=services.pending.is_taken(row),
            )
            for row in await services.pending.waiting(caller)
        ]
    )


@router.post("/{fingerprint}/accept", dependencies=SENSITIVE)
async def accept_pending_host(
    services: Given, caller: Caller, fingerprint: Fingerprint, body: AcceptHost
) -> HostChange:
    """Register the host. Others that have asked for its name go on waiting, as `name_taken`."""
    seq = await services.pending.accept(caller, fingerprint, hostname=body.hostname, groups=body.groups)
    return HostChange(hostname=body.hostname, seq=seq)


@router.post("/{fingerprint}/refuse", status_code=204)
async def refuse_pending_host(services: Given, caller: Caller, fingerprint: Fingerprint) -> None:
    """Turn the host away: as long as its request stands it is told so whenever it asks again with that key."""
    await services.pending.refuse(caller, fingerprint)
