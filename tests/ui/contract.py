"""What routes answer, as their contract has it: pages are tried with it, and live by it where a server lacks them yet.

Once the server has them all, `look`, `needs`, `answer` and ANSWERS can go: nothing is answered in its place any more.
"""

import re
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import BrowserContext, Route

EMPTY = {"items": []}
ANSWERS: dict[str, object] = {
    "stop": {"stopped": False, "by": None, "reason": None, "since": None, "seq": 0},
    "auth/providers": {"oidc": None, "passkeys": False},
    "approvals": EMPTY,
    "templates": EMPTY,
    "pending-hosts": EMPTY,
    "auth/passkeys": EMPTY,
}


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
    "fingerprint": "0123456789abcdef" * 4,
    "hostname": "web-9",
    "public_key": "AAAA",
    "address": "192.0.2.7",
    "asked_at": "2026-11-26T07:00:00Z",
    "expires_at": "2036-11-26T08:00:00Z",
}
STOPPED = {"stopped": True, "by": "sid", "reason": "a worm", "since": "2026-11-26T07:00:00Z", "seq": 9}


_there: set[str] = set()  # the paths of the server's own description


def look(url: str, http: httpx.Client) -> None:
    """See which routes the server has."""
    _there.update(http.get(f"{url}/api/openapi.json").json()["paths"])


def needs(*paths: str) -> None:
    """Skip a test of routes that the server lacks."""
    if lacking := [path for path in paths if f"/api/v1/{path}" not in _there]:
        pytest.skip(f"the server does not have {', '.join(lacking)}")


def answer(context: BrowserContext) -> None:
    """Answer what pages read of routes that the server lacks; a test may answer otherwise for its own page."""
    for path in ANSWERS:
        if f"/api/v1/{path}" not in _there:
            context.route(re.compile(rf"/api/v1/{path}(\?|$)"), _with(ANSWERS[path]))


def _with(body: object) -> Callable[[Route], None]:
    return lambda route: route.fulfill(json=body)
