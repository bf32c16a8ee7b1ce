"""When a task is sent: it is paused and resumed, and a rollout releases its hosts little by little, or stops."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Final

from control_plane.events.envelope import Key
from control_plane.events.event import Event
from control_plane.events.tasks import AskedOnce

APPROVAL: Final = "approval"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn(Event):
    GIVES_AUTHORITY: ClassVar[bool] = True

    task_id: str
    actor: str
    based_on: int
    reason: str | None = None

    def key(self) -> Key:
        return Key(self.task_id, self.KIND, part=str(self.based_on))

    def digest(self) -> bytes:
        """Two at the same time are one, whoever asks."""
        return hashlib.sha256(self.KIND.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPaused(_Turn):
    """Nothing more of the task is sent until it is resumed; what runs goes on.

    Attributes:
        task_id: the task.
        actor: the user who asked, or `rollout`.
        based_on: seq of the task's acceptance, or of the resume before this.
        reason: for people.
        awaits: `approval` where its rollout asks for one, after the canary; the resume gives it.
    """

    KIND: ClassVar[str] = "task.paused"

    awaits: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResumed(_Turn):
    """A paused task goes on.

    Attributes:
        task_id: the task.
        actor: the user who asked.
        based_on: seq of the pause.
        reason: for people.
    """

    KIND: ClassVar[str] = "task.resumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskApproved(AskedOnce):
    """Its canary has succeeded, and somebody lets it go on before it has waited as long as it was to."""

    KIND: ClassVar[str] = "task.approved"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRolloutStopped(Event):
    """Too many hosts have failed: what its rollout has not released yet is to be skipped.

    Attributes:
        task_id: the task.
        failed: hosts on which it has.
        targets: hosts that it has in all.
        max_errors: on how many it may.
    """

    KIND: ClassVar[str] = "task.rollout_stopped"
    GIVES_AUTHORITY: ClassVar[bool] = True

    task_id: str
    failed: int
    targets: int
    max_errors: int

    @property
    def reason(self) -> str:
        """For people, the same on each host that is skipped."""
        return f"rollout stopped: {self.failed} of {self.targets} failed, at most {self.max_errors} may"

    def key(self) -> Key:
        return Key(self.task_id, self.KIND)

    def digest(self) -> bytes:
        """Stopping twice is stopping once, however many have failed meanwhile."""
        return hashlib.sha256(self.KIND.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionReleased(Event):
    """The rollout of its task has come to it: from here on it may be sent.

    Attributes:
        task_id: the task.
        hostname: the host that may be sent its part.
    """

    KIND: ClassVar[str] = "execution.released"
    GIVES_AUTHORITY: ClassVar[bool] = True

    task_id: str
    hostname: str

    def key(self) -> Key:
        return Key(self.task_id, self.KIND, self.hostname)
