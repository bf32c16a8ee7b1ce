"""What can go wrong between the control plane and an agent. The class says what the caller does.

WireError
├─ MalformedMessageError(reason)   control plane: dead-letter with the reason; agent: count and ack; never retry
├─ SignatureError(reason)          the same, and the control plane records a security event
├─ PublishUnconfirmedError         may have been delivered and counts so: publish the same bytes again
└─ TransportUnavailableError       back off with jitter and open a new session
"""


class WireError(Exception):
    pass


class MalformedMessageError(WireError):
    """Bytes that are not a message of the protocol; `reason` is one line that names the field."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SignatureError(WireError):
    """A signature, or a key, that must not be trusted; `reason` is one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PublishUnconfirmedError(WireError):
    """Nothing is known about whether the message was delivered."""


class TransportUnavailableError(WireError):
    """There is no connection, or it was just lost; nothing was sent."""
