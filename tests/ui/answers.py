"""Answers of the server that a page is tried with where the real thing would take long, or two days."""

import re

from playwright.sync_api import Page, Route

WAITING: dict[str, object] = {
    "approval_id": "a1",
    "state": "waiting",
    "task_id": "0198f2a0-0000-7000-8000-000000000001",
    "requester": "olaf",
    "reason": "the disk of db1 is full",
    "request": {
        "target": {"group": "db"},
        "command": "rm -r /var/tmp/dump\u202e",
        "user": "root",
        "timeout": 30,
        "when_offline": "queue",
        "expires_in": 600,
        "reason": "the disk of db1 is full",
    },
    "hosts": ["db1", "db2", "db3"],
    "host_count": 3,
    "hosts_sha256": "0" * 64,
    "request_sha256": "1" * 64,
    "rules": ["r-db"],
    "requested_at": "2026-11-26T07:00:00Z",
    "expires_at": "2036-11-26T07:15:00Z",
    "decided_by": None,
    "decided_reason": None,
    "mine": False,
    "may_decide": True,
}
OWN = {**WAITING, "approval_id": "a2", "requester": "admin", "mine": True, "may_decide": False}
APPROVED = {**OWN, "approval_id": "a3", "state": "approved", "decided_by": "ada", "decided_reason": "yes"}
TEMPLATE: dict[str, object] = {
    "name": "restart-unit",
    "description": "restart a service",
    "argv": ["/usr/bin/systemctl", "restart", "{unit}", "--lines={lines}"],
    "parameters": [
        {"name": "unit", "type": "choice", "choices": ["nginx", "redis"], "min": None, "max": None, "prefix": None}
        | {"max_length": None},
        {"name": "lines", "type": "integer", "choices": None, "min": 0, "max": 10, "prefix": None, "max_length": None},
    ],
    "user": "deploy",
    "timeout": 60,
    "cwd": None,
    "env": None,
    "seq": 7,
}
PENDING = {
    "name_taken": True,
    "fingerprint": "0123456789abcdef" * 4,
    "hostname": "web-9",
    "public_key": "AAAA",
    "address": "192.0.2.7",
    "asked_at": "2026-11-26T07:00:00Z",
    "expires_at": "2036-11-26T08:00:00Z",
}
STOPPED = {"stopped": True, "by": "sid", "reason": "a worm", "since": "2026-11-26T07:00:00Z", "seq": 9}
NOT_STOPPED = {"stopped": False, "by": None, "reason": None, "since": None, "seq": 0}


def answer(page: Page, path: str, body: object, *, status: int = 200, method: str = "GET", times: int = 1000) -> None:
    def fulfil(route: Route) -> None:
        nonlocal times
        if route.request.method != method or not times:
            return route.fallback()
        times -= 1
        return route.fulfill(status=status, json=body)

    page.route(re.compile(rf"/api/v1/{path}(\?|$)"), fulfil)
