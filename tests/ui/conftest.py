"""The dashboard as a user has it: a real `control-plane dev`, in Debian's Chromium."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.support.browser import is_installed, launched
from tests.support.dev import Dev, running

__all__ = ["Dev", "Visitor"]

SIMULATED = 5
PATIENCE_MS = 15_000  # on a machine that has other work; what is seen sooner is not waited for


expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with running(tmp_path_factory.mktemp("dev"), agents=SIMULATED) as started:
        yield started


@pytest.fixture(scope="package")  # and no longer: its event loop runs until it ends, and no other one can beside
def browser() -> Iterator[Browser]:
    if not is_installed():
        pytest.skip("Chromium is not installed")
    with launched() as started:
        yield started


@dataclass
class Visitor:
    """Opens pages, and notes everything that a page complains about."""

    context: BrowserContext
    complaints: list[str] = field(default_factory=list)

    def enter(self, dev: Dev) -> None:
        """Sign in as the link does it, without a page, which would load most of the dashboard."""
        login = {"login_token": dev.login_url.partition("#token=")[2]}
        answer = self.context.request.post(f"{dev.url}/api/v1/auth/login", data=login)
        assert answer.ok, answer.text()

    def page(self) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", lambda request: self._requested(request.url))
        return page

    def _note(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.complaints.append(f"{kind}: {text}")

    def _requested(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "blob:")):
            self.complaints.append(f"request to {url}")


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    """Fails the test when a page complains of anything, policy violations above all."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US", reduced_motion="reduce")
    made = Visitor(context)
    yield made
    for page in context.pages:
        page.unroute_all(behavior="ignoreErrors")  # an answer may still be on its way
    context.close()
    assert made.complaints == []


@pytest.fixture
def page(visitor: Visitor, dev: Dev) -> Page:
    """Of somebody who is signed in; it is at no address yet."""
    visitor.enter(dev)
    return visitor.page()
