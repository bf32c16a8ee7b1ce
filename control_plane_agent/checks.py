"""Whether a command is for this host, and may run: pure, in the order that the protocol prescribes."""

from collections.abc import Iterable
from dataclasses import dataclass

from control_plane_agent.identity import Identity
from control_plane_agent.policy import Policy
from control_plane_wire.errors import SignatureError, WireError
from control_plane_wire.messages import ALLOWED_SKEW_S, MAX_COMMAND_BYTES, MAX_EXPIRY_S, CommandMessage, decode
from control_plane_wire.signing import COMMAND, CONTROL_PLANE
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.topology import COMMAND_ALL, command_key, group_key


@dataclass(frozen=True, slots=True)
class Refused:
    """It does not run, and the control plane is told so; `outcome` is `rejected` or `expired`."""

    outcome: str
    reason: str


def opened(body: bytes, route: str, keys: Iterable[bytes]) -> JsonObject:
    """As `opened_by`, whoever of them it is."""
    return opened_by(body, route, keys)[1]


def opened_by(body: bytes, route: str, keys: Iterable[bytes]) -> tuple[bytes, JsonObject]:
    """Decode and verify a message of the control plane; its recipient is the routing key that it came by.

    Returns:
        The key that signed it, and the message.

    Raises:
        MalformedMessageError: it is no message.
        SignatureError: none of the keys has signed it for that recipient.
    """
    signed = decode(body, max_bytes=MAX_COMMAND_BYTES, tag=COMMAND)
    for public_key in keys:
        try:
            signed.verify(public_key, COMMAND, sender=CONTROL_PLANE, recipient=route)
        except SignatureError:
            continue
        return public_key, signed.message
    raise SignatureError("not signed by a key of the control plane for this recipient")


def is_authentic(body: bytes, route: str, identity: Identity) -> bool:
    """Whether a key that this host trusts, or has trusted, has signed it: it is then what was journalled."""
    try:
        opened(body, route, [*identity.keys.values(), *identity.retired.values()])
    except WireError:
        return False
    return True


def admit(command: CommandMessage, *, route: str, identity: Identity, policy: Policy, now_s: int) -> Refused | None:
    """Look at a verified command that is not in the journal; None lets it run.

    Args:
        route: the routing key that it came by.
        now_s: what time it is for expiry (`Journal.now_s`).
    """
    if (reason := _not_for_us(command, route, identity)) is not None:
        return Refused("rejected", reason)
    late_s = now_s - command.last_start_s
    if late_s > ALLOWED_SKEW_S:
        return Refused("expired", f"expired {late_s} s ago")
    if command.last_start_s - command.timestamp > MAX_EXPIRY_S:
        return Refused("rejected", f"it may start for longer than {MAX_EXPIRY_S // 86_400} days")
    if (reason := policy.refusal(command)) is not None:
        return Refused("rejected", reason)
    return None


def _not_for_us(command: CommandMessage, route: str, identity: Identity) -> str | None:
    if route == command_key(identity.hostname):
        return None
    member_since = _member_since(route, identity)
    if member_since is None:
        return f"{route} is no key of this host"
    if command.as_of is not None and command.as_of < member_since:
        return "the command is older than this host's membership"
    return None


def _member_since(route: str, identity: Identity) -> int | None:
    if route == COMMAND_ALL:
        return identity.enrolled_as_of
    return next((as_of for group, as_of in identity.groups.items() if route == group_key(group)), None)
