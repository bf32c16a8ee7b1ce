"""Events as lines: whole, exact, and harmless on a terminal."""

import csv
import io
import json

import pytest

from control_plane.events.envelope import StoredEvent
from control_plane.events.export import COLUMNS, csv_head, csv_line, line, ndjson, pretty, printable

EVENT = StoredEvent(
    7,
    1_700_000_000_000_123,
    "task.accepted",
    1,
    "t1",
    "web1",
    "ada",
    -5,
    b'{"a":1,"b":"\xc3\xa9,\\n"}',
    bytes(64),
    "0f",
)


def test_a_line_says_what_was_wanted_on_how_many_hosts_and_what_refused_it() -> None:
    denied = b'{"action":"tasks.run","code":"forbidden","resource":"tasks/t1","rules":["r-1","r-2"],"address":null}'
    assert line(EVENT._replace(kind="access.denied", body=denied)).endswith(
        " web1 action=tasks.run resource=tasks/t1 code=forbidden rules=r-1,r-2"
    )
    assert line(EVENT._replace(body=b'{"hosts":["a","b","c"],"command":"x"}')).endswith(" web1 hosts=3")
    for body in (b"", b"[]", b"{}", b"\xff", b'{"action":{"a":1}}'):
        assert line(EVENT._replace(body=body)).endswith(" web1")
    hostile = json.dumps({"action": "\x1b[31m\u202e\n", "code": "x" * 5000}).encode()
    told = line(EVENT._replace(body=hostile))
    assert "\\u001b[31m\\u202e\\n" in told
    assert told.isprintable()
    assert len(told) < 500


def test_a_line_of_json_has_the_exact_bytes_of_the_body() -> None:
    text = ndjson(EVENT)

    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    assert b'"body":{"a":1,"b":"\xc3\xa9,\\n"}' in text
    whole = json.loads(text)
    assert list(whole) == list(COLUMNS)
    assert (whole["recorded_at"], whole["occurred_us"]) == ("2023-11-14T22:13:20.000123Z", -5)
    assert whole["signature"] == "A" * 86 + "=="


@pytest.mark.parametrize("body", [b"", b"\xff", b"{", b'{"a":\n1}', b'{"a":\r1}'])
def test_a_body_that_is_no_line_of_json_is_in_base64(body: bytes) -> None:
    text = ndjson(EVENT._replace(body=body))

    assert text.count(b"\n") == 1
    assert "body" not in json.loads(text)
    assert "body_base64" in json.loads(text)


def test_csv_reads_back() -> None:
    absent = EVENT._replace(task_id=None, signature=None, key_id=None, occurred_us=None, body=b"\xff")
    rows = list(csv.reader(io.StringIO((csv_head() + csv_line(EVENT) + csv_line(absent)).decode(), newline="")))

    assert rows[0] == list(COLUMNS)
    assert rows[1][0:6] == ["7", "2023-11-14T22:13:20.000123Z", "1700000000000123", "task.accepted", "1", "t1"]
    assert rows[1][-1] == '{"a":1,"b":"é,\\n"}'
    assert (rows[2][5], rows[2][8], rows[2][-1]) == ("", "", "base64:/w==")


def test_nothing_reaches_a_terminal_that_it_would_obey() -> None:
    hostile = EVENT._replace(actor="a\x1b[2J\u202e\x9b", body='{"x":"\u202e\x7f\x9b✓"}'.encode())

    for text in (pretty(hostile), line(hostile)):
        assert not {"\x1b", "\u202e", "\x9b", "\x7f"} & set(text)
    assert json.loads(pretty(hostile))["body"]["x"] == "\u202e\x7f\x9b✓"
    assert printable("✓ é 世界") == "✓ é 世界"
