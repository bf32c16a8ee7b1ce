"""What cannot be decoded or verified: set aside in a `.dead` queue with the reason, counted, and never in the way."""

from dataclasses import dataclass

from control_plane_wire.topology import DEFAULT_EXCHANGE
from control_plane_wire.transport.base import Delivery, Message

MAX_REASON = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Attributes: `is_forged`: a signature was wrong, or somebody spoke for another: a security event."""

    delivery: Delivery
    reason: str
    is_forged: bool = False

    def message(self, queue: str) -> Message:
        """The same bytes for the dead-letter queue, with the reason and where it came from in headers."""
        headers = {"reason": self.reason[:MAX_REASON], "routing-key": self.delivery.routing_key}
        return Message(exchange=DEFAULT_EXCHANGE, routing_key=queue, body=self.delivery.body, headers=headers)
