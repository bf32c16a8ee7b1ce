"""Groups: their hosts by state, and putting hosts into them. The assignment made here is the truth."""

from collections.abc import Mapping

from control_plane.api.fields import Answer, GroupName, Hostname, Items
from control_plane.api.past import Hosts
from control_plane.api.routing import noun
from control_plane.api.services import Caller, Given, Services
from control_plane.errors import NotFoundError

router = noun("/groups", "groups", permission="hosts.read")


class Group(Answer):
    """Attributes: `counts`: its hosts by state; `drift`: how many of them have bound other groups."""

    group: str
    hosts: int
    counts: Mapping[str, int]
    drift: int


class Membership(Answer):
    """Attributes: `bound`: whether the host's agent has bound the group, null where that is not known."""

    group: str
    hostname: str
    bound: bool | None


class MembershipChange(Answer):
    group: str
    hostname: str
    member: bool
    seq: int


@router.get("")
async def list_groups(hosts: Hosts) -> Items[Group]:
    """Every group that has a host, with how many, in which states, and where assignment and agent differ."""
    found = await hosts.groups()
    return Items(items=[Group(group=row.group, hosts=row.hosts, counts=row.counts, drift=row.drift) for row in found])


@router.get("/{group}/hosts/{hostname}")
async def get_membership(hosts: Hosts, group: GroupName, hostname: Hostname) -> Membership:
    """Whether a host is in a group, and whether its agent has bound it. 404 where it is not in it."""
    row = await hosts.one(hostname)
    if row is None or group not in row.groups:
        raise NotFoundError("not_a_member", f"{hostname} is not in the group {group}")
    return Membership(
        group=group, hostname=hostname, bound=None if row.groups_bound is None else group in row.groups_bound
    )


@router.put("/{group}/hosts/{hostname}")
async def add_to_group(services: Given, caller: Caller, group: GroupName, hostname: Hostname) -> MembershipChange:
    """Put a host into a group. One that is in it already stays."""
    return await _assign(services, caller, group, hostname, member=True)


@router.delete("/{group}/hosts/{hostname}")
async def remove_from_group(services: Given, caller: Caller, group: GroupName, hostname: Hostname) -> MembershipChange:
    """Take a host out of a group. One that is not in it stays out."""
    return await _assign(services, caller, group, hostname, member=False)


async def _assign(services: Services, caller: Caller, group: str, hostname: str, *, member: bool) -> MembershipChange:
    seq = await services.hosts.assign(caller, hostname, group, member=member)
    return MembershipChange(group=group, hostname=hostname, member=member, seq=seq)
