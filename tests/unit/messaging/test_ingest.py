"""How a batch of messages is decoded: few and small ones at once, else in a thread, where the loop goes on."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from control_plane.commands.authority import Authority, Keyring
from control_plane.events import registry
from control_plane.messaging.broker_accounts import PREFIX
from control_plane.messaging.dead_letters import DeadLetter
from control_plane.messaging.ingest import INLINE, INLINE_BYTES, MOST_BYTES, Ingest, Received, parts_of
from control_plane.messaging.results import Results
from control_plane.messaging.rubbish import SINGLY
from control_plane_wire.signing import SigningKey
from tests.support.fleet import Desk, host_key
from tests.support.memory_log import MemoryLog
from tests.support.plane import a_result


@dataclass
class ADelivery:
    body: bytes
    routing_key: str = "result.node.web1"
    exchange: str = "sys_result_exchange"
    headers: dict[str, object] = field(default_factory=dict)
    user_id: str | None = None
    redelivered: bool = False

    def ack(self) -> None: ...
    def reject(self) -> None: ...


class Watched(Ingest):
    """Remembers in which threads it has decoded."""

    def _decode_all(self, deliveries: Sequence[Any]) -> list[Received | DeadLetter]:
        self.threads = {*getattr(self, "threads", ()), threading.current_thread()}
        return super()._decode_all(deliveries)


@pytest.mark.parametrize(
    ("batch", "is_inline"),
    [
        ([ADelivery(b"{}")] * INLINE, True),
        ([ADelivery(b"{}")] * (INLINE + 1), False),
        ([ADelivery(b'{"stdout":"' + b"," * INLINE_BYTES + b'"}')], False),
    ],
)
async def test_what_takes_long_to_decode_does_not_hold_up_the_loop(batch: list[ADelivery], is_inline: bool) -> None:
    log = MemoryLog()
    authority = Authority(log, Keyring(SigningKey.generate()))
    results = Results(log, authority, lambda what, number: None)  # type: ignore[arg-type]
    ingest = Watched(
        results,
        None,  # type: ignore[arg-type]
        log,  # type: ignore[arg-type]
        authority,
        count=lambda what, number: None,
    )

    received, dead = await ingest._verified(batch)

    assert (len(received), len(dead)) == (0, len(batch))
    assert (ingest.threads == {threading.main_thread()}) is is_inline


def test_a_batch_is_recorded_in_parts_that_no_commit_takes_long_for() -> None:
    sizes = [1, MOST_BYTES - 1, 1, 1, 3 * MOST_BYTES, MOST_BYTES, 5]
    batch = [ADelivery(bytes(size)) for size in sizes]

    parts = list(parts_of(batch))

    assert [[len(delivery.body) for delivery in part] for part in parts] == [
        [1, MOST_BYTES - 1],
        [1, 1],
        [3 * MOST_BYTES],
        [MOST_BYTES],
        [5],
    ]


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        (None, None),  # a foreign agent need not say it
        ("agents", None),  # an account that somebody has made by hand
        (f"{PREFIX}{host_key('web1').key_id}-1", None),
        (f"{PREFIX}{host_key('web1').key_id}-7", None),  # it has enrolled anew since, with the same key
        (f"{PREFIX}{host_key('web2').key_id}-1", "it was published by h-"),
    ],
)
async def test_a_result_that_another_hosts_account_published_is_a_forgery(user: str | None, reason: str | None) -> None:
    desk = Desk()
    for hostname in ("web1", "web2"):
        await desk.register(hostname)
    results = Results(desk.log, desk.authority, lambda what, number: None)  # type: ignore[arg-type]
    ingest = Ingest(results, None, desk.log, desk.authority, count=lambda what, number: None)  # type: ignore[arg-type]

    [found] = ingest._decode_all([ADelivery(a_result("t1", "web1"), user_id=user)])

    if reason is None:
        assert isinstance(found, Received)
    else:
        assert isinstance(found, DeadLetter)
        assert found.is_forged
        assert found.reason.startswith(reason)


async def test_a_forger_in_an_account_of_several_hosts_has_one_minute_s_events_whatever_it_names() -> None:
    """Each name would else be a sender of its own: ten events a minute of each of a thousand names."""
    desk = Desk()
    await desk.register("web1")
    results = Results(desk.log, desk.authority, lambda what, number: None)  # type: ignore[arg-type]
    ingest = Ingest(results, None, desk.log, desk.authority, count=lambda what, number: None)  # type: ignore[arg-type]
    own = f"{PREFIX}{host_key('web2').key_id}-1"
    users = (None, "agents", "", own) * 2 * SINGLY
    forged = [
        ADelivery(b"%d" % each, f"result.node.x{each}", headers={"x-death": "somewhere"}, user_id=user)
        for each, user in enumerate(users)
    ]

    dead = await ingest._record(forged)

    assert len(dead) == len(forged)
    told = [registry.decode(row) for row in desk.log.rows if row.kind == "message.rejected"]
    assert len(told) == 2 * SINGLY, "of the host with an account of its own, and of all others together"
