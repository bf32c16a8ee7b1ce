"""The control plane's public keys, for whoever verifies its signatures."""

from fastapi import Request

from control_plane.api.authentication import Authenticator
from control_plane.api.fields import Answer, Items, Seq, wait_for_authority
from control_plane.api.routing import noun
from control_plane.api.services import Given
from control_plane_wire.messages import KeyState
from control_plane_wire.signing import encode_base64, key_id

router = noun("/keys", "keys")


class PublicKey(Answer):
    """Attributes: `public_key`: base64 of 32 raw bytes; `state`: active or retired."""

    key_id: str
    public_key: str
    state: str


def public_key_of_state(key: KeyState) -> PublicKey:
    return PublicKey(key_id=key_id(key.public_key), public_key=encode_base64(key.public_key), state=key.state)


class Keys(Items[PublicKey]):
    """Attributes: `next_key_sha256`: hex SHA-256 of the public key that comes after these, where it is announced."""

    next_key_sha256: str | None


@router.get("")
async def list_keys(request: Request, services: Given, min_seq: Seq | None = None) -> Keys:
    """Those that sign now, oldest first, and those before them. Strangers do not wait for `min_seq`."""
    authenticator: Authenticator = request.app.state.authenticator
    await wait_for_authority(services, min_seq, waits=min_seq is not None and authenticator.known(request) is not None)
    items = [public_key_of_state(key) for key in services.keyring.states()]
    return Keys(items=items, next_key_sha256=services.keyring.announced)
