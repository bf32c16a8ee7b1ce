"""Answers about more hosts than a test can start: rows as the server gives them, of hosts that there are not."""

import json
import re
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, Route

STATES = (*("online",) * 17, "stale", "offline", "pending")  # in turn
GROUPS = ("web", "db", "cache", "batch", "edge")
ENDS = (*("succeeded",) * 96, "failed", "failed", "lost", "timed_out")
TASK_ID = "0198f2a0-0000-7000-8000-00000000fee1"

Row = dict[str, Any]


class LargeFleet:
    """So many hosts, and a task on all of them, made of one real row of each.

    Args:
        host: a row of `GET /hosts`.
        as_of: its `as_of`, from which the real stream goes on.
    """

    def __init__(self, count: int, host: Row, as_of: str) -> None:
        self.hosts = [self._host(host, number) for number in range(count)]
        self._as_of = as_of
        self._pages: dict[str, bytes] = {}

    @staticmethod
    def _host(host: Row, number: int) -> Row:
        state, group = STATES[number % len(STATES)], GROUPS[number % len(GROUPS)]
        usage = {"cpu_usage": number % 97 / 97, "memory_usage": number % 89 / 89} if state == "online" else {}
        return {**host, "hostname": f"{group}-{number:05}", "state": state, "groups": [group], **usage}

    def executions(self, execution: Row) -> list[Row]:
        rows = enumerate(self.hosts)
        return [
            {**execution, "task_id": TASK_ID, "hostname": host["hostname"], "state": ENDS[number % len(ENDS)]}
            for number, host in rows
        ]

    def answer(self, page: Page) -> None:
        """Answer what `page` asks about the fleet."""
        page.route(re.compile(r"/api/v1/hosts(\?|$)"), lambda route: self._rows(route, "hosts", self.hosts))
        page.route(re.compile(r"/api/v1/groups(\?|$)"), lambda route: route.fulfill(json=self._groups(route)))

    def answer_task(self, page: Page, task: Row, execution: Row) -> str:
        """Answer as well that a task ran on all hosts; the path of its page."""
        rows = self.executions(execution)
        counts = dict(Counter(row["state"] for row in rows))
        whole = {**task, "task_id": TASK_ID, "target": {"all": True}, "targets": len(rows), "counts": counts}
        group = {"exit_code": 0, "stdout_sha256": "0" * 64, "stderr_sha256": None, "stdout": "up\n", "stderr": None}
        groups = [
            {**group, "state": state, "exit_code": 0 if state == "succeeded" else 1, "encoding": "utf-8"}
            | {"hosts": [row["hostname"] for row in rows if row["state"] == state], "count": count, "truncated": False}
            for state, count in counts.items()
        ]
        outputs = {"groups": groups, "as_of": self._as_of}
        page.route(re.compile(rf"/tasks/{TASK_ID}$"), lambda route: route.fulfill(json=whole))
        page.route(re.compile(rf"/tasks/{TASK_ID}/outputs"), lambda route: route.fulfill(json=outputs))
        page.route(
            re.compile(rf"/tasks/{TASK_ID}/executions(\?|$)"), lambda route: self._rows(route, "executions", rows)
        )
        return f"/tasks/{TASK_ID}"

    def _groups(self, route: Route) -> Row:
        answer: Row = route.fetch().json()
        one = answer["items"][0]
        counts = Counter(host["groups"][0] for host in self.hosts)
        return {**answer, "items": [{**one, "group": group, "hosts": count} for group, count in counts.items()]}

    def _rows(self, route: Route, name: str, rows: list[Row]) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        start, limit = int(query.get("cursor", ["0"])[0]), int(query.get("limit", ["100"])[0])
        key = f"{name} {start} {limit}"
        if key not in self._pages:
            end = start + limit
            page = {"items": rows[start:end], "next_cursor": str(end) if end < len(rows) else None, "total": len(rows)}
            counts = dict(Counter(row["state"] for row in rows))
            self._pages[key] = json.dumps({**page, "counts": counts, "as_of": self._as_of}).encode()
        route.fulfill(body=self._pages[key], content_type="application/json")
