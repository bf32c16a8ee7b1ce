"""The events that this process has committed last, so that its own followers need not ask the database for them."""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from control_plane.events.envelope import StoredEvent
from control_plane.storage.dialect import KeyBytes

MOST_EVENTS: Final = 2000
MOST_BYTES: Final = 16 * 1024 * 1024


class Tail:
    """A run of events without a hole, up to the last one that was committed here, with the keys of most of them."""

    def __init__(self) -> None:
        self._events: deque[StoredEvent] = deque()
        self._size_bytes = 0
        self._keys: OrderedDict[KeyBytes, int] = OrderedDict()

    def extend(self, events: Sequence[StoredEvent], keys: Mapping[KeyBytes, int]) -> None:
        """Add what was just committed; where another process has committed in between, start anew."""
        if self._events and events and events[0].seq != self._events[-1].seq + 1:
            self._events.clear()
            self._size_bytes = 0
        self._events.extend(events)
        self._size_bytes += sum([len(event.body) for event in events])
        while len(self._events) > MOST_EVENTS or self._size_bytes > MOST_BYTES:
            self._size_bytes -= len(self._events.popleft().body)
        self._keys.update(keys)
        while len(self._keys) > MOST_EVENTS:
            self._keys.popitem(last=False)

    def after(self, seq: int, *, limit: int, upto: int) -> list[StoredEvent]:
        """The events that follow `seq`, without a hole; empty where the next one is not here."""
        if not self._events or not self._events[0].seq <= seq + 1 <= self._events[-1].seq:
            return []
        start = seq + 1 - self._events[0].seq
        return list(islice(self._events, start, start + min(limit, max(0, upto - seq))))

    def find(self, key: KeyBytes) -> int | None:
        """The seq of a key that was committed here; None says nothing."""
        return self._keys.get(key)
