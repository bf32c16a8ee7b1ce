"""The errors of the control plane; the class says what the caller does.

    ControlPlaneError
    ├─ RefusedError(code, detail)      a rule said no: 409 or 422 with `code`; never retry
    │  ├─ NotSignedInError             401
    │  │  └─ ElsewhereError(username)  the same, and the log has whose credentials these were
    │  ├─ NotAllowedError              403
    │  ├─ NotFoundError                404
    │  ├─ BacklogFullError(number)     too much waits already: 503, the same again later
    │  ├─ TooManyError(wait_s)         429: the same again after that
    │  ├─ IdentityRefusedError(detail) what the identity provider said of somebody does not hold: begin again
    │  ├─ KeyConflictError(key, seq)   same idempotency key, other digest or actor: 409; the first stands
    │  └─ UnstorableError(index)       the database refuses a value of that event: set it aside, append the rest again
    ├─ StorageUnavailableError         deadlock, lost connection, unknown COMMIT: same batch again; at the API 503
    │  ├─ DuplicateKeyError            the row is there already, nothing was written: look, then the same again
    │  ├─ LogClosedError(log)          the log has lost its end: nothing is appended until somebody has decided
    │  └─ KeyMissingError(detail)      this process has not the key that signs now: nothing is signed until it has
    ├─ BrokerApiError                  the broker's management API refused or did not answer: the same again later; 503
    ├─ IdentityProviderError           the identity provider does not answer, or not as it must: again later
    ├─ LeaseLostError(name)            stop this loop, write nothing more; the new holder goes on
    ├─ LogDamagedError(log, seq)       hole below the head, or another tree than the signed one: halt, alarm, never skip
    ├─ ArchiveDamagedError(line)       an archive is not what was written: keep it, use another copy
    ├─ FoldError(seq)                  park the event and the later ones of its key, count, alarm; a rebuild stops
    └─ ConfigurationError              only at start: one clear line, exit 2

What happens every day is a return value instead, such as `Duplicate` and `Conflict` of `events.envelope`.
"""


class ControlPlaneError(Exception):
    """Anything that this application raises on purpose."""


class RefusedError(ControlPlaneError):
    """A rule said no. `code` is stable and for programs, `detail` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class InvalidFieldError(RefusedError):
    """A field of the request is not what it must be.

    Attributes:
        field: as in `rollout.canary`.
        rule: what is wrong with it, for people.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__("invalid_request", f"{field} {rule}")
        self.field = field
        self.rule = rule


class NotSignedInError(RefusedError):
    def __init__(self, code: str = "not_signed_in", detail: str = "credentials are missing, wrong or expired") -> None:
        super().__init__(code, detail)


class ElsewhereError(NotSignedInError):
    """The credentials of a known user, from where they do not count; whoever shows them is not told that."""

    def __init__(self, username: str) -> None:
        super().__init__()
        self.username = username


class NotAllowedError(RefusedError):
    def __init__(self, code: str = "not_allowed", detail: str = "your role does not permit this") -> None:
        super().__init__(code, detail)


class NotFoundError(RefusedError):
    def __init__(self, code: str = "not_found", detail: str = "there is no such thing") -> None:
        super().__init__(code, detail)


class BacklogFullError(RefusedError):
    """So many more executions may not wait; nothing was recorded, and the same again is right when there is room.

    Attributes:
        waiting: executions that wait now.
        most: those that may.
    """

    def __init__(self, number: int, *, waiting: int, most: int) -> None:
        does = f"{waiting} executions wait for an answer of their hosts, {number} more would be beyond {most}"
        super().__init__(
            "backlog_full", f"{does}: try again when there are fewer, cancel some, or raise CONTROL_PLANE_MAX_WAITING"
        )
        self.waiting = waiting
        self.most = most


class TooManyError(RefusedError):
    """Somebody asks too often. Attributes: `wait_s`: seconds until the same may be asked again."""

    def __init__(self, code: str, detail: str, wait_s: float) -> None:
        super().__init__(code, detail)
        self.wait_s = wait_s


class IdentityRefusedError(RefusedError):
    """What came from the identity provider proves nothing; `detail` is for the record, the browser is told less."""

    def __init__(self, detail: str) -> None:
        super().__init__("oidc_failed", detail)


class KeyConflictError(RefusedError):
    """The key was used before for something else; `seq` is the event that stands."""

    def __init__(self, key: str, seq: int) -> None:
        super().__init__("key_conflict", f"{key} was used before for another request or by another person")
        self.key = key
        self.seq = seq


class UnstorableError(RefusedError):
    """The database refuses a value of the event at `index` of the call; the call's other events are recorded."""

    def __init__(self, index: int, detail: str) -> None:
        super().__init__("unstorable", detail)
        self.index = index


class StorageUnavailableError(ControlPlaneError):
    """Nothing is known about the outcome; the same again, with backoff, is right."""


class DuplicateKeyError(StorageUnavailableError):
    """A row with that primary key is there already, perhaps since a moment; the transaction wrote nothing."""


class LogClosedError(StorageUnavailableError):
    """The log has lost its end; nothing is appended until somebody restores it, or says that it stands as it is."""

    def __init__(self, log: str, why: str) -> None:
        super().__init__(f"{log} {why}: restore it, or stop the servers and run control-plane log accept-loss")
        self.log = log
        self.why = why


class KeyMissingError(StorageUnavailableError):
    """This process does not hold the private half of the key that has to sign; another one may, and go on."""


class BrokerApiError(ControlPlaneError):
    """The broker's management API refused, or did not answer; all that is done with it may be done again."""


class IdentityProviderError(ControlPlaneError):
    """The identity provider did not answer, or not as it must."""


class LeaseLostError(ControlPlaneError):
    def __init__(self, name: str) -> None:
        super().__init__(f"the lease {name} is no longer ours")
        self.name = name


class LogDamagedError(ControlPlaneError):
    """There is no event `seq` in `log` though its head is beyond it; or with a detail, what else does not fit there."""

    def __init__(self, log: str, seq: int, detail: str = "is missing below the head") -> None:
        super().__init__(f"{log} {seq} {detail}")
        self.log = log
        self.seq = seq


class ArchiveDamagedError(ControlPlaneError):
    """An archive of a segment is not whole, or not as it was written."""

    def __init__(self, line: int, detail: str) -> None:
        super().__init__(f"line {line}: {detail}")
        self.line = line


class FoldError(ControlPlaneError):
    """A fold cannot apply the event `seq`."""

    def __init__(self, seq: int, detail: str) -> None:
        super().__init__(f"event {seq}: {detail}")
        self.seq = seq


class ConfigurationError(ControlPlaneError):
    """The program cannot start like this; the text names what to change."""
