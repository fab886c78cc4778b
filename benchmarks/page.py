"""Time from a dropped photo to its labels on the screen, in a real browser; optionally a screenshot.

    python benchmarks/page.py --rounds 9 --picture docs/pictures/page.jpg

Needs the extra app, Playwright and a Chromium in /usr/bin. The photo is the sample of matplotlib, cropped to 512x512,
which is also the size of the network's input. Prints the median and the middle half, after two photos as warm-up.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from cgrseg.web import launch, make_page
from cgrseg.web.choices import Choices
from cgrseg.web.tabs import sample_photo

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
LABELLED = "document.querySelector('#photo-viewer .cgr-note').innerText"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="cgrseg_lite-voc21")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--picture", type=Path, help="where to save a screenshot (.jpg)")
    options = parser.parse_args()

    page = make_page(Choices([options.weights], device="cpu", short_side=512))
    address = launch(page, host="127.0.0.1", port=None, block=False)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        tab = browser.new_page(viewport={"width": 1120, "height": 880})
        tab.goto(address)
        tab.wait_for_selector("#photo input[type=file]", state="attached")
        seconds = []
        for turn in range(options.rounds + 2):
            with Image.open(sample_photo()) as photo:
                path = Path(folder, f"{turn}.png")
                photo.crop((0, turn, 512, 512 + turn)).save(path)  # a new photo each time
            before = tab.evaluate(LABELLED)
            start = time.perf_counter()
            tab.set_input_files("#photo input[type=file]", str(path))
            tab.wait_for_function(f"before => {LABELLED} !== before", arg=before, polling=10, timeout=60_000)
            seconds.append(time.perf_counter() - start)
            network = tab.evaluate(LABELLED)
            tab.click("#photo button[aria-label='Clear'], #photo button[aria-label='Remove Image']")
            tab.wait_for_function(f"{LABELLED} === ''", timeout=60_000)
        low, middle, high = statistics.quantiles(seconds[2:], n=4)
        print(f"photo to labels on the screen: {middle:.2f} s (middle half {low:.2f} to {high:.2f}); last: {network}")
        if options.picture:
            tab.set_input_files("#photo input[type=file]", str(sample_photo()))
            tab.wait_for_selector("#photo-viewer .cgr-legend button", timeout=60_000)
            tab.wait_for_timeout(1000)
            tab.screenshot(path=str(options.picture), type="jpeg", quality=85)
        browser.close()
    page.close()


if __name__ == "__main__":
    main()
