import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.commands.secrets import Vault, check_secrets, masked, masked_event, sealed_in
from control_plane.errors import InvalidFieldError, RefusedError
from tests.support.events import a_task_accepted
from tests.support.fleet import SECRETS_KEY

VAULT = Vault(SECRETS_KEY)


@given(st.dictionaries(st.sampled_from(["A", "B_2", "_c"]), st.text()), st.sampled_from(["t1", "t2"]))
def test_what_was_sealed_opens_and_is_sealed_alike_once_more(values: dict[str, str], task_id: str) -> None:
    values = {name: text.encode("utf-8", "replace").decode() for name, text in values.items()}

    sealed = VAULT.seal(task_id, values)

    assert VAULT.open(task_id, sealed) == values
    assert VAULT.seal(task_id, values) == sealed


def test_the_same_value_looks_different_in_each_place() -> None:
    sealed = [VAULT.seal(task_id, {name: "hunter2"})[name] for task_id in ("t1", "t2") for name in ("A", "B")]

    assert len(set(sealed)) == 4
    assert not any("hunter2" in text or base64.b64encode(b"hunter2").decode() in text for text in sealed)


def test_what_was_sealed_opens_nowhere_else_and_not_once_it_was_changed() -> None:
    sealed = VAULT.seal("t1", {"A": "hunter2"})["A"]
    data = base64.b64decode(sealed)
    flipped = [bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]]) for at in range(len(data))]
    hostile = ["", "A", "====", "é", sealed + "=", sealed.rstrip("="), *(base64.b64encode(x).decode() for x in flipped)]
    hostile += [base64.b64encode(data[:end]).decode() for end in range(len(data))]

    for task_id, name, text in [("t2", "A", sealed), ("t1", "B", sealed), *(("t1", "A", text) for text in hostile)]:
        with pytest.raises(RefusedError) as refused:
            VAULT.open(task_id, {name: text})
        assert refused.value.code == "secret_unreadable"
    with pytest.raises(RefusedError, match=r"secrets\.key does not open"):
        Vault(bytes(64)).open("t1", {"A": sealed})


def test_a_name_and_a_task_id_cannot_be_shifted_into_each_other() -> None:
    sealed = VAULT.seal("t1A", {"B": "x"})["B"]

    with pytest.raises(RefusedError):
        VAULT.open("t1", {"AB": sealed})


def test_without_a_key_nothing_is_sealed_or_opened_and_what_has_no_secret_needs_none() -> None:
    vault = Vault()

    for act in (vault.seal, vault.open):
        with pytest.raises(RefusedError) as refused:
            act("t1", {"A": "x"})
        assert refused.value.code == "no_secrets_key"
    assert vault.open("t1", {}) == {}
    assert vault.withheld(a_task_accepted("t1", ("web1",)), ["web1"]) == {}


def test_what_cannot_be_opened_is_withheld_from_each_host_with_the_reason() -> None:
    task = a_task_accepted("t1", ("web1", "web2"), secrets=VAULT.seal("t1", {"A": "x"}))

    assert VAULT.withheld(task, task.hosts) == {}
    withheld = Vault(bytes(64)).withheld(task, task.hosts)
    assert list(withheld) == ["web1", "web2"]
    assert "secret A of the task t1" in withheld["web1"]


@pytest.mark.parametrize(
    ("values", "env", "field"),
    [
        ({"1A": "x"}, None, "secrets"),
        ({"": "x"}, None, "secrets"),
        ({"A=B": "x"}, None, "secrets"),
        ({"A\n": "x"}, None, "secrets"),
        ({"Ä": "x"}, None, "secrets"),
        ({"A" * 129: "x"}, None, "secrets"),
        ({"A": "x" * 32_769}, None, "secrets.A"),
        ({"A": "x\0"}, None, "secrets.A"),
        ({"A": "x"}, {"A": "y"}, "secrets.A"),
    ],
)
def test_a_name_or_a_value_that_is_not_a_variables_is_refused(
    values: dict[str, str], env: dict[str, str] | None, field: str
) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        check_secrets(values, env)

    assert refused.value.field == field
    assert "x" not in refused.value.rule.split()


def test_of_an_event_for_people_only_the_names_are_left() -> None:
    sealed = VAULT.seal("t1", {"B": "x", "A": "y"})
    request = {"command": "id", "secrets": dict(sealed)}

    assert masked(request) == {"command": "id", "secrets": ["A", "B"]}
    assert masked_event({"request": request, "actor": "ada"}) == {"request": masked(request), "actor": "ada"}
    for body in ({}, {"request": "x"}, {"request": {"command": "id"}}, {"secrets": {"A": "x"}}):
        assert masked_event(body) is body
    assert sealed_in(request) == sealed
    assert sealed_in({"secrets": "x"}) == sealed_in({}) == {}
