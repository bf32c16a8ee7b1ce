"""Which class a stored kind and version is, and back."""

from collections.abc import Mapping
from typing import Final

from control_plane.events import (
    access,
    approvals,
    enrolment,
    hosts,
    passkeys,
    rollouts,
    rules,
    secrets,
    stop,
    tasks,
    templates,
    upcasts,
)
from control_plane.events.envelope import StoredEvent
from control_plane.events.event import Event
from control_plane_wire import strict_json

MAX_BODY_BYTES: Final = 16 * 1024 * 1024

CLASSES: Final[tuple[type[Event], ...]] = (
    tasks.TaskAccepted,
    tasks.TaskCancelRequested,
    tasks.ExecutionSent,
    tasks.ExecutionReturned,
    tasks.ExecutionUnconfirmed,
    tasks.ExecutionAccepted,
    tasks.ExecutionStarted,
    tasks.ExecutionFinished,
    tasks.ExecutionLateResult,
    tasks.ExecutionExpired,
    tasks.ExecutionLost,
    tasks.ExecutionSkipped,
    tasks.ExecutionCancelled,
    tasks.ExecutionConflict,
    tasks.ExecutionUnexpected,
    rollouts.TaskPaused,
    rollouts.TaskResumed,
    rollouts.TaskApproved,
    rollouts.TaskRolloutStopped,
    rollouts.ExecutionReleased,
    hosts.HostRegistered,
    hosts.HostGroupsChanged,
    hosts.HostLabelsChanged,
    hosts.HostMaintenanceChanged,
    hosts.HostRevoked,
    hosts.HostRetired,
    hosts.HostKeyRotated,
    hosts.HostKeySwitched,
    hosts.HostRequestRefused,
    hosts.HostQuarantined,
    hosts.HostQuarantineLifted,
    hosts.HostWentOnline,
    hosts.HostWentStale,
    hosts.HostWentOffline,
    hosts.CheckpointDisputed,
    hosts.HeartbeatReceived,
    enrolment.EnrolmentTokenCreated,
    enrolment.EnrolmentTokenUsed,
    enrolment.EnrolmentTokenRevoked,
    access.UserCreated,
    access.UserRoleChanged,
    access.UserDisabled,
    access.UserEnabled,
    access.UserPasswordChanged,
    access.UserIdentityChanged,
    access.SessionOpened,
    access.SessionClosed,
    access.TokenCreated,
    access.TokenRevoked,
    access.AccessDenied,
    access.LoginFailed,
    access.KeyAdded,
    access.KeyAnnounced,
    access.KeyRetired,
    access.LogLossAccepted,
    access.MessageRejected,
    passkeys.PasskeyAdded,
    passkeys.PasskeyRemoved,
    rules.RuleCreated,
    rules.RuleDeleted,
    stop.StopSet,
    stop.StopLifted,
    templates.TemplateCreated,
    templates.TemplateDeleted,
    approvals.ApprovalRequested,
    approvals.ApprovalApproved,
    approvals.ApprovalRefused,
    secrets.SecretRead,
)
BY_KIND: Final[Mapping[tuple[str, int], type[Event]]] = {(cls.KIND, cls.VERSION): cls for cls in CLASSES}
KINDS: Final = frozenset(cls.KIND for cls in CLASSES)


def decode(stored: StoredEvent) -> Event | None:
    """The event as its class of today; None where this release does not know the kind, which its reader then skips.

    Raises:
        MalformedMessageError: the body is not what its kind says. To a fold that is poison.
    """
    kind = stored.kind
    if kind not in KINDS:
        return None
    body = strict_json.parse_stored(stored.body, max_bytes=MAX_BODY_BYTES)
    version, body = upcasts.upcast(kind, stored.schema_v, body)
    cls = BY_KIND.get((kind, version))
    return None if cls is None else cls.from_stored(stored, body)
