"""The page in a real browser: seconds from a dropped photo to its labels, and milliseconds of an opacity redraw.

    python benchmarks/page.py --rounds 9 --picture docs/pictures/page.jpg

Needs the extra app, Playwright and a Chromium in /usr/bin. The photo is the sample of matplotlib, cropped to 512x512,
which is also the size of the network's input. Prints medians and middle halves, after two photos as warm-up. A redraw
lasts from the slider's event to the end of the next frame, of which a screen shows one every 16.7 ms; the script's own
part is also printed. --picture saves a screenshot.
"""

from __future__ import annotations

import argparse
import base64
import io
import socket
import statistics
import threading
import time
from pathlib import Path

import matplotlib
import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from cgrseg.server.app import ServerConfig, uvicorn_config
from cgrseg.web import LIMITS, make_page

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
SAMPLE = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
# Drops the photo and waits for the frame that shows its labels, in seconds.
DROP = """async (content) => {
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0)), transfer = new DataTransfer()
    transfer.items.add(new File([bytes], "photo.png"))
    const done = new Promise((resolve) => new MutationObserver((_, self) => {
        if (!document.querySelector("#status").textContent.includes(":")) return
        self.disconnect()
        requestAnimationFrame(() => setTimeout(resolve))
    }).observe(document.querySelector("#status"), { childList: true }))
    const start = performance.now()
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }))
    await done
    return (performance.now() - start) / 1000
}"""
# [[milliseconds in the script, milliseconds to the end of the frame], ...]
REDRAW = """async () => {
    const slider = document.querySelector("#opacity"), times = []
    for (let value = 0; value <= 100; value += 2) {
        await new Promise(requestAnimationFrame)
        const start = performance.now()
        slider.value = value
        slider.dispatchEvent(new Event("input"))
        const script = performance.now() - start
        document.querySelector("#labels").getBoundingClientRect()
        await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))
        times.push([script, performance.now() - start])
    }
    return times
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="cgrseg_lite-voc21")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--picture", type=Path, help="where to save a screenshot (.jpg)")
    options = parser.parse_args()

    app = make_page([options.weights], device="cpu", short_side=512)
    server = uvicorn.Server(uvicorn_config(lambda: app, ServerConfig(limits=LIMITS)))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        measure(f"http://127.0.0.1:{listener.getsockname()[1]}/", options)
    finally:
        server.should_exit = True
        thread.join()


def measure(address: str, options: argparse.Namespace) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        seconds = []
        for turn in range(options.rounds + 2):
            file = io.BytesIO()
            with Image.open(SAMPLE) as photo:
                photo.crop((0, turn, 512, 512 + turn)).save(file, "png")  # a new photo each time
            seconds.append(page.evaluate(DROP, base64.b64encode(file.getvalue()).decode()))
        report("photo to labels on the screen", seconds[2:], "s")
        print(page.inner_text("#facts"))
        scripts, frames = zip(*page.evaluate(REDRAW), strict=True)
        report("opacity, in the script", scripts, "ms")
        report("opacity, to the end of the frame", frames, "ms")
        if options.picture:
            page.evaluate("sessionStorage.clear()")
            page.goto(address)
            for name in ("Cat", "Motorcycle", "Grace Hopper"):
                page.locator("#examples button", has_text=name).dispatch_event("click")
                page.wait_for_selector(f"#status:has-text('{name}: ')")
            page.click("#strip button[title=Motorcycle]")
            page.wait_for_timeout(1000)
            page.screenshot(path=str(options.picture), type="jpeg", quality=85)
        browser.close()


def report(what: str, values: list[float], unit: str) -> None:
    low, middle, high = statistics.quantiles(values, n=4)
    print(f"{what}: {middle:.2f} {unit} (middle half {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
