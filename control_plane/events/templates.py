"""Command templates: programs with typed parameters. Rules let people run just these, so they are signed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from control_plane.events.envelope import Key
from control_plane.events.event import Event
from control_plane_wire.strict_json import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change(Event):
    """Both kinds share one key, so of two decisions on the same name the log takes one."""

    GIVES_AUTHORITY: ClassVar[bool] = True

    name: str
    based_on: int

    def key(self) -> Key:
        return Key(self.name, "template.changed", "", str(self.based_on))


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCreated(_Change):
    """From now on it can be run by this name.

    Attributes:
        name: what it is called by.
        based_on: seq of the event that deleted the one before it of that name, 0 where there was none.
        argv: a program and its arguments; {name} in an argument stands for the value of a parameter.
        parameters: {"name", "type"} of each, and what its type has beside: choices, min, max, max_length, prefix.
        user: the account to run as.
        timeout: seconds that it may run on a host.
        cwd: the directory to run in.
        env: of its environment.
        description: for people.
    """

    KIND: ClassVar[str] = "template.created"

    argv: tuple[str, ...]
    parameters: tuple[Mapping[str, Json], ...]
    user: str
    timeout: int
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateDeleted(_Change):
    """It can be run no more; what was accepted stays as it was.

    Attributes:
        name: what it is called by.
        based_on: seq of the event that made it.
    """

    KIND: ClassVar[str] = "template.deleted"
