"""Golden bytes of every kind and version of event that was ever released: they decode for ever.

They never change. A new version gets its file by `python -m tests.contract.test_golden_events`, which writes only files
that are not there yet. Text and numbers that canonical JSON writes in its own way (1e-7, 1.0, non-ASCII) are in them.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane.events import registry
from control_plane.events.envelope import NewEvent, StoredEvent
from tests.support.events import EXAMPLES, stored

GOLDEN = Path(__file__).with_name("golden") / "events"
NEWEST = {(cls.KIND, cls.VERSION) for cls in registry.CLASSES}


def recording(new: NewEvent) -> dict[str, Any]:
    return {
        "log": new.log,
        "kind": new.kind,
        "schema_v": new.schema_v,
        "task_id": new.task_id,
        "hostname": new.hostname,
        "body": new.body.decode(),
        "key": [new.key.subject, new.key.kind, new.key.hostname, new.key.part],
        "digest": new.digest.hex(),
    }


def path_of(new: NewEvent) -> Path:
    return GOLDEN / f"{new.kind}-v{new.schema_v}.json"


def read(recorded: dict[str, Any]) -> StoredEvent:
    return StoredEvent(
        1,
        1,
        recorded["kind"],
        recorded["schema_v"],
        recorded["task_id"],
        recorded["hostname"],
        None,
        None,
        recorded["body"].encode(),
        None,
        None,
    )


def test_every_kind_and_version_has_its_golden_bytes() -> None:
    recorded = {(event["kind"], event["schema_v"]) for event in map(_load, GOLDEN.glob("*.json"))}

    assert recorded >= NEWEST


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_bytes_decode_to_the_same_event_with_the_same_key_and_digest(path: Path) -> None:
    recorded = _load(path)

    event = registry.decode(read(recorded))

    assert event is not None
    if (event.KIND, recorded["schema_v"]) in NEWEST:
        assert recording(event.to_new_event()) == recorded


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.KIND)
def test_an_event_of_today_has_the_bytes_that_were_recorded(event: Any) -> None:
    new = event.to_new_event()

    assert recording(new) == _load(path_of(new))
    assert registry.decode(stored(new)) == event


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


if __name__ == "__main__":
    for example in EXAMPLES:
        fresh = example.to_new_event()
        if not path_of(fresh).exists():
            path_of(fresh).write_text(json.dumps(recording(fresh), indent=2, ensure_ascii=True) + "\n")
