"""What every event class has: a kind, a version, an idempotency key, and a body of canonical bytes."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from types import UnionType
from typing import ClassVar, Self, get_args, get_origin

from control_plane.events.envelope import EVENT, Key, LogName, NewEvent, StoredEvent
from control_plane_wire import strict_json
from control_plane_wire.errors import MalformedMessageError
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
        pairs = ((own.name, getattr(self, own.name)) for own in fields(self))  # type: ignore[arg-type]
        body = {name: _plain(value) for name, value in pairs if value is not None}
        return {**body, "kind": self.KIND} if self.GIVES_AUTHORITY else body

    def body(self) -> bytes:
        return strict_json.canonical(self.to_json())

    @classmethod
    def from_stored(cls, stored: StoredEvent, body: JsonObject) -> Self:
        """Build it from its decoded body; fields that this release does not know are ignored.

        Raises:
            MalformedMessageError: a field is missing or of another type, or the body was signed as another kind.
        """
        if cls.GIVES_AUTHORITY and body.get("kind") != cls.KIND:
            raise MalformedMessageError(f"the body was signed as {body.get('kind')}, not as {cls.KIND}")
        given: dict[str, object] = {}
        for name, is_required, is_right in _checks(cls):  # type: ignore[arg-type] # a class has a hash
            if name in body:
                given[name] = value = _frozen(body[name])
                if not is_right(value):
                    raise MalformedMessageError(f"{name} has the wrong type")
            elif is_required:
                raise MalformedMessageError(f"{name} is missing")
        return cls(**given)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class WireBorn(Event):
    """What a host said: its message is the body, and its signature is in the envelope.

    Attributes:
        message: without the signature; what it means is derived by whoever folds it.
        canonical: the bytes that were signed, where they are known already, to spare writing them again.
    """

    message: JsonObject
    canonical: bytes | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> JsonObject:
        return dict(self.message)

    def body(self) -> bytes:
        return strict_json.canonical(self.message) if self.canonical is None else self.canonical


@dataclass(frozen=True, slots=True)
class UnknownEvent(Event):
    """An event of a kind that this release does not know, for who needs no more than its envelope."""

    KIND: ClassVar[str] = "unknown"


@cache
def _checks(cls: type[Event]) -> tuple[tuple[str, bool, Callable[[object], bool]], ...]:
    """Of each field its name, whether it may not be left out, and whether a decoded value is right for it."""
    own = fields(cls)  # type: ignore[arg-type]
    return tuple((each.name, each.default is MISSING, _check_of(each.type)) for each in own)


def _check_of(annotation: object) -> Callable[[object], bool]:
    """Whether a decoded value fits an annotation, as far as events use them; true is no integer."""
    origin = get_origin(annotation)
    if origin is UnionType:
        options = [_check_of(option) for option in get_args(annotation)]
        return lambda value: any(fits(value) for fits in options)
    if origin is tuple:
        of_item = _check_of(get_args(annotation)[0])
        return lambda value: isinstance(value, tuple) and all(of_item(item) for item in value)
    if origin is Mapping:
        of_text = get_args(annotation)[1] is str
        return lambda value: (
            isinstance(value, dict) and not (of_text and not all(isinstance(item, str) for item in value.values()))
        )
    if annotation is int:
        return lambda value: type(value) is int and abs(value) <= strict_json.MAX_INTEGER
    return lambda value: type(value) is annotation


def _plain(value: object) -> Json:
    match value:
        case tuple() | list():
            return [_plain(item) for item in value]
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case bool() | int() | float() | str() | None:
            return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _frozen(value: Json) -> object:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
