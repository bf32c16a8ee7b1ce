"""What happens to the secrets of tasks."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.events.envelope import Key
from control_plane.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRead(Event):
    """Somebody was about to be shown a secret: this is recorded before the value is given.

    Attributes:
        read_id: tells one reading from the next.
        task_id: the task.
        name: of the secret.
        actor: who read it.
        address: where the request came from.
    """

    KIND: ClassVar[str] = "secret.read"

    read_id: str
    task_id: str
    name: str
    actor: str
    address: str | None = None

    def key(self) -> Key:
        return Key(self.task_id, self.KIND, "", self.read_id)
