"""Debian's Chromium, for what looks at the dashboard as a user does: tests of the pages, benchmarks, pictures."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"

# For each window Chromium starts processes that draw suggestions of an address bar that nobody sees, and for each page
# one that might be of use for another: half of what a short test takes. The last switch of a name is the one that
# counts, so this has what Playwright would say of painting, too: a page that is loaded shows at once what it has.
NEEDLESS = ("WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "SpareRendererForSitePerProcess", "PaintHolding")


def is_installed() -> bool:
    return Path(CHROMIUM).exists()


@contextmanager
def launched() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        args = [f"--disable-features={','.join(NEEDLESS)}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()
