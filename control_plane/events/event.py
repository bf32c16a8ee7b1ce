"""What every event class has: a kind, a version, an idempotency key, and a body of canonical bytes."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import ClassVar, Self

from control_plane.events.envelope import EVENT, Key, LogName, NewEvent, StoredEvent
from control_plane_wire import strict_json
from control_plane_wire.strict_json import Json, JsonObject


class Event:
    """A fact. Subclasses are frozen dataclasses whose fields are the body; those that are None are left out.

    `task_id` and `hostname`, where a subclass has them, also go into the envelope. `GIVES_AUTHORITY` marks what counts
    only with the control plane's signature; its body names its kind, so a signature cannot be moved to another kind.
    """

    __slots__ = ()

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = 1
    LOG: ClassVar[LogName] = EVENT
    GIVES_AUTHORITY: ClassVar[bool] = False

    def key(self) -> Key:
        """What this event may be recorded for only once."""
        raise NotImplementedError

    def digest(self) -> bytes:
        """What tells a repeat of this event from another one with the same key; 32 bytes."""
        return hashlib.sha256(self.body()).digest()

    def to_json(self) -> JsonObject:
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        body = {name: _plain(value) for name, value in pairs if value is not None}
        return {**body, "kind": self.KIND} if self.GIVES_AUTHORITY else body

    def body(self) -> bytes:
        return strict_json.canonical(self.to_json())

    @classmethod
    def from_stored(cls, stored: StoredEvent, body: JsonObject) -> Self:
        """Build it from its decoded body; unknown fields are ignored."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: _frozen(value) for name, value in body.items() if name in known})

    def to_new_event(
        self,
        *,
        actor: str | None = None,
        occurred_us: int | None = None,
        signature: bytes | None = None,
        key_id: str | None = None,
    ) -> NewEvent:
        return NewEvent(
            log=self.LOG,
            kind=self.KIND,
            schema_v=self.VERSION,
            key=self.key(),
            digest=self.digest(),
            task_id=getattr(self, "task_id", None),
            hostname=getattr(self, "hostname", None),
            actor=actor,
            occurred_us=occurred_us,
            body=self.body(),
            signature=signature,
            key_id=key_id,
        )


def _plain(value: object) -> Json:
    match value:
        case tuple():
            return [_plain(item) for item in value]
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case bool() | int() | float() | str() | None:
            return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _frozen(value: Json) -> object:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
