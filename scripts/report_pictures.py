"""Draws docs/images/report.png and report-phone.png: a report in the Chromium of this machine.

python scripts/report_pictures.py REPORT.html [FOLDER]
"""

import argparse
import io
import os
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE, GAP = (1280, 1180), (390, 844), 16
LOADS_MS = 500  # images that come into view
ON_THE_PHONE = ("", "#training", "#images")  # sections that are shown beside each other


def pictures(report: Path) -> tuple[Image.Image, Image.Image]:
    """Draw a report on a desktop and on a phone."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("RASTERLOOM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])

        def shot(size: tuple[int, int], anchor: str, **options: Any) -> Image.Image:
            page = browser.new_page(
                viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce", **options
            )
            page.goto(report.resolve().as_uri() + anchor)
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(LOADS_MS)
            return Image.open(io.BytesIO(page.screenshot())).convert("RGB")

        desktop = shot(DESKTOP, "", color_scheme="light")
        parts = [shot(PHONE, anchor, color_scheme="dark", device_scale_factor=1.5) for anchor in ON_THE_PHONE]
        browser.close()
    wide = parts[0].width + GAP
    phone = Image.new("RGB", (wide * len(parts) - GAP, parts[0].height), "white")
    for place, part in enumerate(parts):
        phone.paste(part, (place * wide, 0))
    return desktop, phone


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "images")
    given = parser.parse_args()
    for image, name in zip(pictures(given.report), ("report.png", "report-phone.png"), strict=True):
        image.quantize(256, dither=Image.Dither.NONE).save(given.folder / name, optimize=True)


if __name__ == "__main__":
    main()
