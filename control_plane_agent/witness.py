"""This host as a witness: it remembers the newest checkpoint of the control plane's log, and none may go back on it."""

from collections.abc import Iterable

from control_plane_wire.checkpoints import parse, verified
from control_plane_wire.errors import MalformedMessageError, SignatureError


def objection(kept: str | None, offered: str, public_keys: Iterable[bytes]) -> str | None:
    """Why a checkpoint cannot have grown from the one that is kept; None where it can, as far as a host can tell.

    One that is refused is not kept: heartbeats go on bringing back the earlier one, which no longer fits that log.
    """
    try:
        new = verified(offered, public_keys)
    except (MalformedMessageError, SignatureError) as error:
        return error.reason
    if kept is None:
        return None
    try:
        old = parse(kept)
    except MalformedMessageError:  # what an earlier release has kept, which took whatever it was told
        return None
    if new.origin != old.origin:
        return f"a checkpoint of {new.origin}, after one of {old.origin}"
    if new.size < old.size:
        return f"a log of {new.size} events, after one of {old.size}"
    if new.size == old.size and new.root != old.root:
        return f"another tree over the same {new.size} events"
    return None
