"""What can go wrong in an agent. The class says what the caller does.

AgentError
├─ JournalError         cannot be made durable: neither acknowledge nor run
├─ EnrolmentError       one clear line, exit 1: a person must look at it
│  └─ NotNowError       it is not reached, or has too much to do: who has time asks again
│     └─ TooFastError   too often: the same again is right after `wait_s`
└─ ConfigurationError   only at start: one clear line for each thing that is wrong, exit 2
"""


class AgentError(Exception):
    pass


class JournalError(AgentError):
    """The entry could not be written; `is_full` where the disk has no room."""

    def __init__(self, reason: str, *, is_full: bool) -> None:
        super().__init__(reason)
        self.is_full = is_full


class EnrolmentError(AgentError):
    pass


class NotNowError(EnrolmentError):
    pass


class TooFastError(NotNowError):
    """Asked too often: the same again is right after `wait_s` seconds."""

    def __init__(self, detail: str, wait_s: float) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class ConfigurationError(AgentError):
    pass
