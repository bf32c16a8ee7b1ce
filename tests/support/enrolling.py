"""The control plane's public HTTP routes for hosts, over a desk, as an agent's `Server` asks them."""

import asyncio
from collections.abc import Callable, Collection

from control_plane.commands.handlers.enrolment import Enrolled, EnrolmentHandler
from control_plane.commands.handlers.pending_hosts import PendingHostHandler
from control_plane.commands.handlers.rotations import RotationHandler
from control_plane.commands.hosts import Host
from control_plane.commands.pending_hosts import PendingHost
from control_plane.errors import RefusedError, TooManyError
from control_plane.messaging.broker_accounts import account_of
from control_plane_agent.errors import EnrolmentError, NotNowError
from control_plane_wire.signing import decode_public_key, decode_signature, encode_base64
from control_plane_wire.strict_json import JsonObject
from tests.support.fleet import Desk


class AccountsByName:
    """Every host has an account of its own; the broker is not there."""

    async def admit(self, host: Host) -> str:
        return f"amqp://{account_of(host)}:secret@broker"

    async def dismiss(self, hosts: Collection[Host]) -> int:
        return len(hosts)


class DeskServer:
    """Args: `before`, `after`: called with the path of each request, and of each that was done."""

    def __init__(
        self,
        desk: Desk,
        *,
        before: Callable[[str], None] = lambda path: None,
        after: Callable[[str], None] = lambda path: None,
    ) -> None:
        self._desk = desk
        self._before = before
        self._after = after
        self._enrolment = EnrolmentHandler(desk.handling, AccountsByName())
        self._rotations = RotationHandler(desk.handling, self._enrolment)
        self._pending = PendingHostHandler(desk.handling, self._enrolment, desk.requests, most=desk.pending_hosts)

    def post(self, path: str, body: JsonObject) -> JsonObject:
        self._before(path)
        try:
            answer = asyncio.run(self._answer(path, {name: str(value) for name, value in body.items()}))
        except TooManyError as error:
            raise NotNowError(str(error)) from error
        except RefusedError as error:
            raise EnrolmentError(str(error)) from error
        self._after(path)
        return answer

    async def _answer(self, path: str, body: dict[str, str]) -> JsonObject:
        hostname, public_key = body["hostname"], decode_public_key(body["public_key"])
        if path == "/enrol/begin":
            return {"nonce": await self._enrolment.begin(token=None, hostname=hostname, public_key=public_key)}
        nonce, proof = body["nonce"], decode_signature(body["proof"])
        if path == "/enrol/request":
            asked = await self._pending.ask(hostname=hostname, public_key=public_key, nonce=nonce, proof=proof)
            return {"fingerprint": asked.fingerprint} if isinstance(asked, PendingHost) else _told(asked)
        assert path == "/enrol/rotate"
        return _told(
            await self._rotations.rotate(
                hostname=hostname,
                public_key=public_key,
                nonce=nonce,
                proof=proof,
                new_proof=decode_signature(body["new_proof"]),
            )
        )


def _told(enrolled: Enrolled) -> JsonObject:
    return {
        "hostname": enrolled.hostname,
        "as_of": enrolled.as_of,
        "groups": dict(enrolled.groups),
        "keys": [{"public_key": encode_base64(key.public_key), "state": key.state} for key in enrolled.keys],
        "amqp_url": enrolled.amqp_url,
    }
