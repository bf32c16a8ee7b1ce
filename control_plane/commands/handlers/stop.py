"""The global stop: set and lifted. No rule is about these: who may, may by role."""

from control_plane.commands.access import Principal
from control_plane.commands.handling import Handling
from control_plane.commands.stop import StopState, decide_lift, decide_stop


class StopHandler:
    def __init__(self, handling: Handling) -> None:
        self._handling = handling

    @property
    def state(self) -> StopState:
        """As it stands; everybody may know it."""
        return self._handling.authority.stop

    async def set(self, principal: Principal, reason: str) -> int:
        """Let nothing be accepted and nothing be sent from now on; its seq. Once more changes nothing."""
        handling = self._handling
        await handling.admit(principal, "stop.set", "stop")
        actor, now_s = principal.username, handling.clock.now_s()
        return await handling.decide_and_record(
            lambda: decide_stop(self.state, actor=actor, reason=reason, now_s=now_s), actor=actor
        )

    async def lift(self, principal: Principal, reason: str | None) -> int:
        """Let all go on; its seq. Once more changes nothing."""
        handling, actor = self._handling, principal.username
        await handling.admit(principal, "stop.lift", "stop")
        return await handling.decide_and_record(
            lambda: decide_lift(self.state, actor=actor, reason=reason), actor=actor
        )
