"""A fleet of thousands of hosts, as the server would answer it, and a stream that says what a test wants."""

import json
import re
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Locator, Page, Route

PAGE = 1000
HEARD = "2026-11-26T12:00:00.000000Z"


def a_host(number: int, **more: object) -> dict[str, object]:
    """Every 25th is offline, every 10th stale, all the others are online; each is in one of 20 groups."""
    state = "offline" if number % 25 == 3 else "stale" if number % 10 == 5 else "online"
    host: dict[str, object] = {
        "hostname": f"web-{number:05}",
        "state": state,
        "state_cause": "no heartbeat",
        "last_heartbeat_at": HEARD,
        "cpu_usage": (number * 37 % 100) / 100,
        "memory_usage": (number * 53 % 100) / 100,
        "running": number % 3,
        "groups": [f"g{number % 20:02}"],
        "groups_bound": [f"g{number % 20:02}"],
        "drift": False,
        "basic": False,
        "labels": {"env": "prod" if number % 2 else "test"},
        "maintenance": False,
        "quarantine": None,
        "agent_version": "1.2.0",
        "os": "Debian GNU/Linux 12 (bookworm)",
        "pos": 1,
        "usage_pos": 1,
    }
    return host | more


def rows_of(page: Page) -> Locator:
    """Those that are in the document."""
    return page.locator("tbody tr:not(.gap)")


def answer_hosts(page: Page, hosts: list[dict[str, object]], *, total: int | None = None, as_of: str) -> None:
    """`GET /hosts` has these, in pages."""
    pages = [hosts[start : start + PAGE] for start in range(0, len(hosts), PAGE)] or [[]]
    bodies = [
        json.dumps(
            {
                "items": items,
                "next_cursor": str(at + 1) if at + 1 < len(pages) else None,
                "total": total or len(hosts),
                "counts": {},
                "as_of": as_of,
            }
        )
        for at, items in enumerate(pages)
    ]

    def fulfil(route: Route) -> None:
        cursor = parse_qs(urlsplit(route.request.url).query).get("cursor", ["0"])[0]
        route.fulfill(content_type="application/json", body=bodies[int(cursor)])

    page.route(re.compile(r"/api/v1/hosts\?"), fulfil)


def stream_by_hand(page: Page) -> None:
    """The streams of pages that are loaded from now on say nothing but what `say` gives them."""
    page.add_init_script(
        """{
          const ask = fetch;
          const open = (signal) => new ReadableStream({
            start(controller) {
              window.sayToStream = (frames) => controller.enqueue(new TextEncoder().encode(frames));
              signal.addEventListener("abort", () => controller.error(signal.reason));
            },
          });
          const isStream = (url) => String(url).includes("/stream?");
          window.fetch = async (url, options) => isStream(url) ? new Response(open(options.signal)) : ask(url, options);
        }"""
    )


def say(page: Page, *hosts: dict[str, object], pos: int = 2) -> None:
    """These rows have changed; drawn once this returns."""
    rows = [[pos, host | {"pos": pos}] for host in hosts]
    frame = f"event: rows\ndata: {json.dumps({'table': 'hosts', 'rows': rows})}\n\n"
    page.wait_for_function("() => window.sayToStream !== undefined")
    page.evaluate("(frame) => window.sayToStream(frame)", frame)
    drawn(page)


def drawn(page: Page) -> None:
    """What was taken in is shown."""
    page.evaluate(
        "() => new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done))))"
    )
