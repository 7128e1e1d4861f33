"""The Chromium of this machine."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def launched(*options: str) -> Iterator[Any]:
    """Start the browser of RASTERLOOM_CHROMIUM, or of a usual name."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("RASTERLOOM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    assert path, (
        "no Chromium: install one (Debian: apt-get install chromium), or name it: RASTERLOOM_CHROMIUM"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*QUIET, *options])
        try:
            yield browser
        finally:
            browser.close()
