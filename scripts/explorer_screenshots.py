"""Pictures of the explorer for the documentation, on the embedded sample, in a headless Chromium.

python scripts/explorer_screenshots.py docs/images
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from ee_trl import EmpathyDataSelector, load_sample


SHOTS: dict[str, dict[str, Any]] = {
    "explorer-light": {"color_scheme": "light", "viewport": {"width": 1180, "height": 1000}},
    "explorer-dark": {"color_scheme": "dark", "viewport": {"width": 1180, "height": 1000}},
    "explorer-phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    selector = EmpathyDataSelector("linear", show_progress=False)
    scored = selector.score(load_sample())
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        page_path = selector.explore(scored, Path(place) / "page.html", source="scored.parquet")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, options in SHOTS.items():
            page = browser.new_context(**options).new_page()
            page.goto(page_path.as_uri())
            page.locator("#texts tbody tr").first.wait_for()
            if "phone" not in name:
                page.locator("#t-sensibility").fill("62")
                page.locator("#t-rationality").fill("45")
                box = page.locator("#plot .nsewdrag").first.bounding_box()
                page.mouse.click(box["x"] + box["width"] * 8.25 / 11, box["y"] + box["height"] * (1 - 3.75 / 11))
                page.mouse.move(0, 0)
            page.wait_for_timeout(400)
            page.screenshot(path=folder / f"{name}.png")
            shrink(folder / f"{name}.png")
        browser.close()


def shrink(path: Path) -> None:
    Image.open(path).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path)


if __name__ == "__main__":
    main()
