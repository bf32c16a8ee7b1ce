"""Tasks with as many hosts, and with such answers, as a few simulated hosts do not give."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, Route

from tests.ui.conftest import Dev
from tests.ui.steps import ping, stream_says

Row = dict[str, Any]
OPEN = ("queued", "sent", "accepted", "running")
STARTED = datetime.now(UTC) - timedelta(minutes=2)
NODES = "() => document.querySelectorAll('*').length"


def after(ms: float) -> str:
    """So long after the task was accepted."""
    return (STARTED + timedelta(milliseconds=ms)).isoformat()


AT = after(0)


def row(hostname: str, state: str, *, said: str = "said", **more: object) -> Row:
    """An execution, with what it printed where it has run."""
    has_result = state in {"succeeded", "failed"}
    nothing = dict.fromkeys(("sent_at", "accepted_at", "started_at", "reason", "leftovers", "late"))
    return {
        **nothing,
        "hostname": hostname,
        "state": state,
        "exit_code": {"succeeded": 0, "failed": 3}.get(state),
        "queued_at": AT,
        "finished_at": None if state in OPEN else after(1000),
        "result_seq": 7 if has_result else None,
        "stdout_bytes": len(said) if has_result else None,
        "stderr_bytes": 0 if has_result else None,
        "stdout_sha256": sha256(said.encode()).hexdigest() if has_result else None,
        "stderr_sha256": sha256(b"").hexdigest() if has_result else None,
        "truncated": False,
        "first_line": said.partition("\n")[0] if has_result else None,
        "said": said,
        **more,
    }


def answered_by(page: Page, dev: Dev, rows: Sequence[Row], **changes: object) -> str:
    """A task that is shown with these executions, whatever the server knows of it."""
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "echo synthetic")
    dev.api.finished(task_id)
    for place, one in enumerate(rows):
        one |= {"task_id": task_id, "pos": place + 1}
    counts = Counter(one["state"] for one in rows)
    is_open = any(state in OPEN for state in counts)
    task = {
        "counts": counts,
        "targets": len(rows),
        "state": "running" if is_open else "finished",
        "outcome": None if is_open else "succeeded" if set(counts) == {"succeeded"} else "failed",
        "accepted_at": AT,
        "finished_at": None if is_open else after(1000),
        **changes,
    }

    def answer(route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.path.endswith("/executions"):
            route.fulfill(json=_page(rows, parse_qs(url.query)))
        elif url.path.endswith("/outputs"):
            route.fulfill(json={"groups": _groups(rows), "as_of": "e1.h1"})
        else:
            route.fulfill(json={**route.fetch().json(), **task})

    page.route(re.compile(rf"/api/v1/tasks/{task_id}(/executions|/outputs)?(\?|$)"), answer)
    stream_says(page, ping("?", events=0, seconds=0))
    return task_id


def _page(rows: Sequence[Row], query: Mapping[str, list[str]]) -> Row:
    start, limit = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
    end = start + limit
    return {"items": rows[start:end], "next_cursor": str(end) if end < len(rows) else None, "as_of": "e1.h1"}


def _groups(rows: Sequence[Row]) -> list[Row]:
    names = ("state", "exit_code", "stdout_sha256", "stderr_sha256")
    found: dict[tuple[object, ...], Row] = {}
    for one in rows:
        group = found.setdefault(
            tuple(one[name] for name in names),
            {name: one[name] for name in names}
            | {"hosts": [], "stdout": one["said"] if one["result_seq"] else None, "truncated": False}
            | {"stderr": "" if one["result_seq"] else None, "encoding": "utf-8"},
        )
        group["hosts"].append(one["hostname"])
    groups = sorted(found.values(), key=lambda group: len(group["hosts"]))
    return [group | {"count": len(group["hosts"])} for group in groups]
