from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.events import registry, upcasts
from control_plane.events.event import Event
from control_plane.events.hosts import HostGroupsChanged, HostLabelsChanged, HostRegistered, HostRevoked
from control_plane.events.tasks import TaskAccepted
from control_plane_wire import strict_json
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.strict_json import Json, JsonObject
from tests.support.events import EXAMPLES, HOST, PUBLIC_KEY, a_task_accepted, stored

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def decoded(event: Event, **changed: Json) -> Event | None:
    """The event after its body was tampered with."""
    body: JsonObject = {**event.to_json(), **changed}
    return registry.decode(stored(event.to_new_event())._replace(body=strict_json.canonical(body)))


def test_there_is_an_example_of_every_class_and_no_two_classes_share_a_kind() -> None:
    assert {type(event) for event in EXAMPLES} == set(registry.CLASSES)
    assert len(registry.BY_KIND) == len(registry.CLASSES)


@given(request=st.dictionaries(TEXT, JSON, max_size=4), hosts=st.lists(TEXT, max_size=4), number=NUMBERS)
def test_a_body_decodes_to_the_event_that_it_was_written_from(
    request: dict[str, Json], hosts: list[str], number: int
) -> None:
    event = replace(a_task_accepted(hosts=tuple(hosts)), request=request, as_of=number)

    assert registry.decode(stored(event.to_new_event())) == event


@given(labels=st.dictionaries(TEXT, TEXT, max_size=4))
def test_an_event_with_any_labels_survives_the_log(labels: dict[str, str]) -> None:
    event = HostLabelsChanged(hostname=HOST, based_on=1, labels=labels)

    assert registry.decode(stored(event.to_new_event())) == event


def test_what_is_none_is_not_in_the_body() -> None:
    assert "reason" not in HostRevoked(hostname=HOST, based_on=1).to_json()


def test_fields_of_a_later_release_are_ignored() -> None:
    event = HostRevoked(hostname=HOST, based_on=1)

    assert decoded(event, colour="red") == event


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        (HostRevoked(hostname=HOST, based_on=1), {"based_on": "1"}),
        (HostRevoked(hostname=HOST, based_on=1), {"based_on": True}),
        (HostRevoked(hostname=HOST, based_on=1), {"hostname": None}),
        (HostRevoked(hostname=HOST, based_on=1), {"reason": 5}),
        (HostGroupsChanged(hostname=HOST, based_on=1, groups=("web",)), {"groups": "web"}),
        (HostGroupsChanged(hostname=HOST, based_on=1, groups=("web",)), {"groups": ["web", 1]}),
        (HostLabelsChanged(hostname=HOST, based_on=1, labels={}), {"labels": {"a": 1}}),
        (a_task_accepted(), {"hosts": [["db1"]]}),
        (a_task_accepted(), {"request": []}),
    ],
)
def test_a_field_of_the_wrong_type_is_malformed(event: Event, changed: JsonObject) -> None:
    with pytest.raises(MalformedMessageError, match=next(iter(changed))):
        decoded(event, **changed)


def test_a_missing_field_is_malformed() -> None:
    bare = stored(HostRevoked(hostname=HOST, based_on=1).to_new_event())

    with pytest.raises(MalformedMessageError, match="based_on is missing"):
        registry.decode(bare._replace(body=b'{"hostname":"web1","kind":"host.revoked"}'))


@pytest.mark.parametrize("event", [event for event in EXAMPLES if event.GIVES_AUTHORITY], ids=lambda e: e.KIND)
def test_a_body_that_was_signed_as_one_kind_is_no_other(event: Event) -> None:
    row = stored(event.to_new_event())

    for kind in {cls.KIND for cls in registry.CLASSES if cls.GIVES_AUTHORITY} - {event.KIND}:
        with pytest.raises(MalformedMessageError):
            registry.decode(row._replace(kind=kind))


def test_a_label_named_kind_does_not_make_a_body_pass_as_another_kind() -> None:
    event = HostLabelsChanged(hostname=HOST, based_on=1, labels={"kind": HostRevoked.KIND})

    with pytest.raises(MalformedMessageError, match="signed as"):
        registry.decode(stored(event.to_new_event())._replace(kind=HostRevoked.KIND))


def test_a_kind_or_version_of_a_later_release_is_none() -> None:
    row = stored(HostRevoked(hostname=HOST, based_on=1).to_new_event())

    assert registry.decode(row._replace(kind="host.painted", body=b"not even JSON")) is None
    assert registry.decode(row._replace(schema_v=2)) is None


def test_old_versions_go_through_every_step_to_the_newest() -> None:
    steps: dict[tuple[str, int], upcasts.Upcast] = {
        ("k", 1): lambda body: {**body, "two": 2},
        ("k", 2): lambda body: {**body, "three": 3},
    }

    assert upcasts.upcast("k", 1, {"one": 1}, steps=steps) == (3, {"one": 1, "two": 2, "three": 3})
    assert upcasts.upcast("k", 3, {}, steps=steps) == (3, {})


def test_all_changes_of_a_host_on_the_same_state_have_one_key() -> None:
    groups = HostGroupsChanged(hostname=HOST, based_on=5, groups=("web",))
    labels = HostLabelsChanged(hostname=HOST, based_on=5, labels={})

    assert groups.key() == labels.key()
    assert groups.digest() != labels.digest()
    assert replace(labels, based_on=6).key() != labels.key()


def test_a_registration_is_told_from_the_next_by_its_generation() -> None:
    first = HostRegistered(hostname=HOST, generation=1, public_key=PUBLIC_KEY, groups=(), registered_by="ada")

    assert replace(first, generation=2).key() != first.key()


def test_a_task_is_the_same_for_the_same_request_and_actor_alone() -> None:
    task = a_task_accepted()

    assert replace(task, hosts=("db2",), accepted_at=1).digest() == task.digest()
    assert replace(task, actor="bob").digest() != task.digest()
    assert replace(task, request_sha256="0" * 64).digest() != task.digest()
    assert isinstance(task, TaskAccepted)
    assert task.key() == replace(task, actor="bob").key()
