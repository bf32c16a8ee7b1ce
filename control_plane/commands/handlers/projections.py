"""Who may have read tables made anew."""

from typing import Protocol

from control_plane.commands.access import Principal
from control_plane.commands.handling import Handling


class Rebuilds(Protocol):
    """See `projections.rebuilder` for the contract."""

    def ask(self, name: str) -> None: ...


class ProjectionHandler:
    """The one decision about read tables. `Handling` tells what it raises."""

    def __init__(self, handling: Handling, rebuilds: Rebuilds) -> None:
        self._handling = handling
        self._rebuilds = rebuilds

    async def rebuild(self, principal: Principal, name: str) -> None:
        """Have a projection rebuilt while it goes on; RefusedError where that is under way already."""
        await self._handling.admit(principal, "projections.rebuild", f"projection {name}")
        self._rebuilds.ask(name)
