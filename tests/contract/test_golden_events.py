"""Golden bytes of every kind and version of event that was ever released: they decode for ever.

They never change. A new version gets its file by `python -m tests.contract.test_golden_events`, which writes only files
that are not there yet. Text and numbers that canonical JSON writes in its own way (1e-7, 1.0, non-ASCII) are in them.
"""

import json
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest

from control_plane.events import registry, upcasts
from control_plane.events.envelope import NewEvent, StoredEvent
from control_plane.events.event import Event, UnknownEvent
from tests.support.events import EXAMPLES, stored

GOLDEN = Path(__file__).with_name("golden") / "events"
NEWEST = {(cls.KIND, cls.VERSION) for cls in registry.CLASSES}
OLD = set(upcasts.UPCASTS)


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


def without_golden_bytes(wanted: Iterable[tuple[str, int]], folder: Path = GOLDEN) -> list[tuple[str, int]]:
    recorded = {(event["kind"], event["schema_v"]) for event in map(_load, folder.glob("*.json"))}
    return sorted(set(wanted) - recorded)


def kinds_without_a_line(classes: Collection[type[Event]]) -> list[tuple[str, int]]:
    """What event classes there are that are not registered, wherever they are defined."""
    found, new = set[type[Event]](), {Event}
    while new:
        found |= new
        new = {below for cls in new for below in cls.__subclasses__() if below.__module__.startswith("control_plane.")}
    defined = {(cls.KIND, cls.VERSION) for cls in found if "KIND" in vars(cls)}
    return sorted(defined - {(cls.KIND, cls.VERSION) for cls in (UnknownEvent, *classes)})


def test_every_kind_and_version_has_its_golden_bytes() -> None:
    assert without_golden_bytes(NEWEST | OLD) == []


def test_a_kind_or_a_version_without_golden_bytes_is_found(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "key.added-v1.json", tmp_path)

    assert without_golden_bytes([("key.added", 1), ("key.added", 2), ("key.lost", 1)], tmp_path) == [
        ("key.added", 2),
        ("key.lost", 1),
    ]


def test_every_event_class_is_registered_and_has_an_example() -> None:
    assert kinds_without_a_line(registry.CLASSES) == []
    assert kinds_without_a_line(registry.CLASSES[1:]) == [(registry.CLASSES[0].KIND, 1)]
    assert {type(event) for event in EXAMPLES} == set(registry.CLASSES)


def test_a_file_of_golden_bytes_is_named_for_what_is_in_it() -> None:
    for path in GOLDEN.glob("*.json"):
        recorded = _load(path)
        assert path.name == f"{recorded['kind']}-v{recorded['schema_v']}.json"


def test_the_newest_version_of_a_kind_is_what_its_upcasts_lead_to() -> None:
    assert {(kind, version + 1) for kind, version in OLD} <= NEWEST | OLD


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
