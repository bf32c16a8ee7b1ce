"""A host takes another key of its own: both count until the first message that is signed with the new one."""

from control_plane.commands.enrolment import check_nonce, check_signed
from control_plane.commands.handlers.enrolment import Enrolled, EnrolmentHandler
from control_plane.commands.handling import Handling
from control_plane.commands.hosts import Host, decide_rotate
from control_plane.errors import NotSignedInError, RefusedError
from control_plane.events.hosts import HostKeyRotated, HostKeySwitched
from control_plane_wire.proofs import of_rotation
from control_plane_wire.signing import key_id


class RotationHandler:
    def __init__(self, handling: Handling, enrolment: EnrolmentHandler) -> None:
        self._handling = handling
        self._enrolment = enrolment

    async def rotate(
        self,
        *,
        hostname: str,
        public_key: bytes,
        nonce: str,
        proof: bytes,
        new_proof: bytes,
        address: str | None = None,
    ) -> Enrolled:
        """Take `public_key` as the host's new one; the same again, after a lost answer, gets the same answer.

        Args:
            proof: by the key that the host has.
            new_proof: by the new one.

        Raises:
            NotSignedInError: `rotation_refused`: no active host of that name has the key of the proof.
            RefusedError: nonce or proof of the new key are wrong; `weak_key`, `key_known`.
            TooManyError: of that address. All of these are recorded.
            BrokerApiError: there is no account yet: the same again, with a new nonce, makes it.
        """
        async with self._enrolment.recorded(hostname, address):
            handling = self._handling
            self._enrolment.count(address)
            ends = check_nonce(nonce, handling.keyring.trusted_public_keys, handling.clock.now_s())
            await handling.authority.refresh()
            body = of_rotation(hostname, public_key, nonce)
            own = self._own(hostname, proof, body)
            check_signed(new_proof, public_key, hostname, body)
            await self._switch(hostname, own)

            def decide() -> HostKeyRotated:
                fleet = handling.authority.fleet
                if own not in fleet.public_keys(hostname):
                    raise _refused()
                return decide_rotate(fleet, fleet.hosts[hostname], public_key, ends)

            await handling.decide_and_record(decide, actor=hostname)
            return await self._enrolment.welcome(handling.authority.fleet.host(hostname), public_key)

    def _own(self, hostname: str, proof: bytes, body: bytes) -> bytes:
        """The key of the host that has signed."""
        for public_key in self._handling.authority.fleet.public_keys(hostname):
            try:
                check_signed(proof, public_key, hostname, body)
            except RefusedError:
                continue
            return public_key
        raise _refused()

    async def _switch(self, hostname: str, own: bytes) -> None:
        """It signs with the new key of the rotation before this one, of which no message has come yet."""
        host: Host = self._handling.authority.fleet.hosts[hostname]
        if own == host.new_key:
            event = HostKeySwitched(hostname=hostname, rotated_seq=host.rotated_seq, key_id=key_id(own))
            await self._handling.record_new(event, actor=hostname)


def _refused() -> NotSignedInError:
    return NotSignedInError("rotation_refused", "no active host of that name has the key of this proof")
