"""When and from where API tokens were used last: kept beside the log, for people to see. It grants nothing."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from control_plane.errors import ControlPlaneError
from control_plane_wire.clock import Clock
from control_plane_wire.lifecycle import wait_for_any

LOOK_S: Final = 5.0
WRITE_US: Final = 60 * 1_000_000  # between two writes of one token
KEPT_US: Final = 3600 * 1_000_000  # in memory, after its last use

_logger = logging.getLogger(__name__)


class TokenUse(NamedTuple):
    """Attributes: `used_us`: UTC microseconds; `address`: where from, if that is known."""

    used_us: int
    address: str | None


class TokenUseTable(Protocol):
    async def all(self) -> Mapping[str, tuple[int, str | None]]:
        """The last use of each token by its id; those that were never used are not in it."""
        ...

    async def put(self, uses: Mapping[str, tuple[int, str | None]]) -> None:
        """Keep these, but where a later one is kept already."""
        ...


class TokenUses:
    """Takes uses down in memory; as a service it writes them later, each token once a minute at most.

    Args:
        table: None where they are not kept beyond this process.
    """

    name = "token uses"

    def __init__(self, table: TokenUseTable | None, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._latest: dict[str, TokenUse] = {}
        self._written: dict[str, TokenUse] = {}

    def note(self, token_id: str, address: str | None) -> None:
        """A token was used just now."""
        self._latest[token_id] = TokenUse(self._clock.now_us(), address)

    async def all(self) -> Mapping[str, TokenUse]:
        """The last use of each token by its id, as far as it is known here."""
        try:
            kept = await self._table.all() if self._table is not None else {}
        except ControlPlaneError:  # nobody is kept from seeing which tokens there are
            _logger.warning("the last uses of tokens cannot be read", exc_info=True)
            kept = {}
        uses = {token_id: TokenUse(*use) for token_id, use in kept.items()}
        for token_id, use in self._latest.items():
            if token_id not in uses or uses[token_id].used_us < use.used_us:
                uses[token_id] = use
        return uses

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await wait_for_any(stop, timeout_s=LOOK_S)
            await self._write(everything=stop.is_set())

    async def _write(self, *, everything: bool) -> None:
        now_us = self._clock.now_us()
        due = {token_id: use for token_id, use in self._latest.items() if everything or self._is_due(token_id, now_us)}
        due = {token_id: use for token_id, use in due.items() if self._written.get(token_id) != use}
        if self._table is not None and due:
            try:
                await self._table.put(due)
            except ControlPlaneError:
                _logger.warning("the last uses of tokens cannot be written", exc_info=True)
                return
        self._written |= due
        for token_id in [each for each, use in self._written.items() if use.used_us < now_us - KEPT_US]:
            del self._written[token_id]
            if self._latest[token_id].used_us < now_us - KEPT_US:
                del self._latest[token_id]

    def _is_due(self, token_id: str, now_us: int) -> bool:
        written = self._written.get(token_id)
        return written is None or written.used_us < now_us - WRITE_US
