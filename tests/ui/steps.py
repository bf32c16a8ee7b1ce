"""What tests of several pages do on them."""

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.sync_api import Download, Locator, Page, expect

from tests.support.programs import PASSWORD
from tests.support.servers import wait_until
from tests.ui.conftest import Dev, Visitor

UNAVAILABLE = {"code": "not_now", "title": "Unavailable", "detail": "not now", "status": 503}


def heading(page: Page, name: str | re.Pattern[str]) -> None:
    page.get_by_role("heading", name=name, level=1).wait_for()


def at_fleet(page: Page, dev: Dev) -> None:
    """Open the start page."""
    page.goto(dev.url)
    heading(page, "Fleet")


def forgiven(visitor: Visitor, *expected: str) -> None:
    """The pages complained of nothing but this: answers of these statuses, connections that the test cut."""
    others = [complaint for complaint in visitor.complaints if not any(part in complaint for part in expected)]
    assert not others, others
    visitor.complaints.clear()


def a_key() -> str:
    """The public key of a host that nobody has."""
    return base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()


def register(dev: Dev, hostname: str, *groups: str) -> None:
    """A host that nobody ever hears from, as soon as pages show it."""
    dev.api.post("/hosts", {"hostname": hostname, "public_key": a_key(), "groups": list(groups)})
    wait_until(lambda: dev.api.http.get(f"/hosts/{hostname}").is_success, timeout_s=20, what=f"{hostname} is shown")


def newcomer(
    page: Page, dev: Dev, username: str, role: str, *, rule: Mapping[str, object] | None = None, then: str = "Fleet"
) -> None:
    """Sign in on this page as somebody new, perhaps with a rule about what they may."""
    dev.api.post("/users", {"username": username, "role": role, "password": PASSWORD})
    if rule is not None:
        dev.api.post("/rules", {"subject": f"user:{username}", **rule})
    page.goto(dev.url)
    sign_in(page, username, then=then)


def sign_in(page: Page, username: str, *, then: str = "Fleet") -> None:
    """Fill in the form that the page shows, and wait for the first page."""
    heading(page, "Sign in")
    page.get_by_label("User").fill(username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    heading(page, then)


def run(page: Page, dev: Dev, query: str, command: str) -> None:
    """Run a command on what the query prefills, and wait for its page."""
    page.goto(f"{dev.url}/run?{query}")
    page.get_by_label("Command").fill(command)
    page.get_by_role("button", name=re.compile(r"Run on \d+ host")).click()


def finished(page: Page, answers: str | re.Pattern[str]) -> None:
    expect(page.get_by_role("status").filter(has_text=answers)).to_be_visible()


def downloaded(page: Page, control: Locator) -> Download:
    """What the browser saves when this is clicked."""
    with page.expect_download() as started:
        control.click()
    return started.value


def ping(build: str, **lag: float) -> str:
    """A frame of the stream, as a server sends it every five seconds."""
    now = datetime.now(UTC).isoformat()
    return f"event: ping\ndata: {json.dumps({'now': now, 'heads': {'event': 7}, 'lag': lag, 'build': build})}\n\n"


def stream_says(page: Page, frames: str) -> None:
    """Every stream of pages that are loaded from now on says this, and stays open."""
    page.add_init_script(
        """{
          const ask = fetch;
          const open = (signal) => new ReadableStream({
            start(controller) {
              controller.enqueue(new TextEncoder().encode(FRAMES));
              signal.addEventListener("abort", () => controller.error(signal.reason));
            },
          });
          const isStream = (url) => String(url).includes("/stream?");
          window.fetch = async (url, options) => isStream(url) ? new Response(open(options.signal)) : ask(url, options);
        }""".replace("FRAMES", json.dumps(frames))
    )


def hide(page: Page) -> None:
    """As if another tab came to the front."""
    page.evaluate(
        """() => {
          Object.defineProperty(document, "hidden", { value: true, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
