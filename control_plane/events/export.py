"""How events are written for people and for other programs: whole, with their bodies."""

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import orjson

from control_plane.events.envelope import StoredEvent

COLUMNS: Final = (
    *("seq", "recorded_at", "recorded_us", "kind", "schema_v", "task_id", "hostname", "actor", "occurred_us"),
    *("key_id", "signature", "body"),
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def recorded_at(stored: StoredEvent) -> str:
    """RFC 3339, in UTC."""
    return (_EPOCH + timedelta(microseconds=stored.recorded_us)).isoformat(timespec="microseconds")[:-6] + "Z"


MAX_DETAIL: Final = 300  # characters


def ndjson(stored: StoredEvent) -> bytes:
    """One line. `body` has the exact bytes of the log; where they are no JSON, `body_base64` has them."""
    return orjson.dumps(_whole(stored), option=orjson.OPT_APPEND_NEWLINE)


def csv_head() -> bytes:
    return _csv(COLUMNS)


def csv_line(stored: StoredEvent) -> bytes:
    """One record; a body that is no text is in base64, behind `base64:`."""
    try:
        body = stored.body.decode()
    except UnicodeDecodeError:
        body = f"base64:{base64.b64encode(stored.body).decode()}"
    whole = {**_envelope(stored), "body": body}
    return _csv(["" if whole[name] is None else whole[name] for name in COLUMNS])


def pretty(stored: StoredEvent) -> str:
    """For a terminal: on many lines, and nothing in it that a terminal obeys."""
    return printable(json.dumps(json.loads(ndjson(stored)), indent=2, ensure_ascii=False))


def line(stored: StoredEvent) -> str:
    """For a terminal: on one line, and of the body only what was wanted, on how many hosts, and what refused it."""
    about = [stored.kind, stored.actor, stored.task_id, stored.hostname]
    kind, actor, task_id, hostname = (printable(part) if part else "-" for part in about)
    envelope = f"{stored.seq:>10} {recorded_at(stored)} {kind:<28} {actor:<16} {task_id:<36} {hostname}"
    return f"{envelope} {_detail(stored)}".rstrip()


def _detail(stored: StoredEvent) -> str:
    try:
        body = json.loads(stored.body)
    except ValueError:
        return ""
    if not isinstance(body, dict):
        return ""
    told = []
    for name in ("action", "resource", "code", "rules", "count", "hosts"):
        value = body.get(name)
        if isinstance(value, list):
            value = len(value) if name == "hosts" else ",".join(map(str, value))
        if isinstance(value, str | int) and value != "":
            told.append(f"{name}={value}")
    text = printable(" ".join(told)).replace("\n", "\\n")
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"


def printable(text: str) -> str:
    """The text with whatever has no glyph escaped as in JSON: controls, and what turns the direction of writing."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _envelope(stored: StoredEvent) -> dict[str, object]:
    return {
        "seq": stored.seq,
        "recorded_at": recorded_at(stored),
        "recorded_us": stored.recorded_us,
        "kind": stored.kind,
        "schema_v": stored.schema_v,
        "task_id": stored.task_id,
        "hostname": stored.hostname,
        "actor": stored.actor,
        "occurred_us": stored.occurred_us,
        "key_id": stored.key_id,
        "signature": None if stored.signature is None else base64.b64encode(stored.signature).decode(),
    }


def _whole(stored: StoredEvent) -> Mapping[str, object]:
    if _is_one_line_of_json(stored.body):
        return {**_envelope(stored), "body": orjson.Fragment(stored.body)}
    return {**_envelope(stored), "body_base64": base64.b64encode(stored.body).decode()}


def _is_one_line_of_json(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return not {*b"\r\n"} & {*body}


def _csv(values: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode()
