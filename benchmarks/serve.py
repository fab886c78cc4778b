"""Throughput of the server against a loop over `Segmenter`: `python benchmarks/serve.py --weights FILE --requests 200`.

In each round the same photos are labelled by a loop over `Segmenter` and then, at a concurrency of 16, by `cgrseg
serve` on loopback, so other load on the machine slows both. Size and pattern of each photo are derived from its number;
every response is compared with the mask of the loop.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cgrseg.inference.segmenter import Segmenter

CONCURRENCY = 16
SAME = 0.98  # share of equal pixels: rounding depends on the batch


def numbered(number: int, height: int, width: int) -> bytes:
    """A JPEG of blocks whose colours and size are derived from its number."""
    chance = np.random.default_rng(number)
    blocks = chance.integers(0, 256, (-(-height // 32), -(-width // 32), 3), dtype=np.uint8)
    photo = blocks.repeat(32, 0).repeat(32, 1)[: height - number % 5, : width - number % 7]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(photo)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def ask(port: int, body: bytes) -> tuple[float, int, bytes]:
    """Seconds, status and content; status 0 if the connection failed."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/v1/segment", body, {"content-type": "image/jpeg"})
        answer = connection.getresponse()
        return time.perf_counter() - start, answer.status, answer.read()
    except OSError:
        return time.perf_counter() - start, 0, b""
    finally:
        connection.close()


def started(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The server's process and port, once it responds."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    while True:
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        if match := re.search(r'"port": (\d+)', log.read_text()):
            port = int(match[1])
            if ask(port, numbered(0, 64, 64))[1] == 200:
                return process, port
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="cgrseg_lite-voc21")
    parser.add_argument("--requests", type=int, default=200, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="512x512", help="HEIGHTxWIDTH of the photos")
    parser.add_argument("--short-side", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    segmenter = Segmenter(options.weights, device=options.device, short_side=options.short_side)
    flags = ["--device", options.device, "--short-side", str(options.short_side), "--batch", str(options.batch)]
    command = [sys.executable, "-m", "cgrseg", "serve", "--weights", options.weights, "--port", "0", *flags]
    ratios, seconds, lost, wrong = [], [], 0, 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(CONCURRENCY) as pool:
        process, port = started(command, Path(folder) / "log")
        try:
            for turn in range(options.rounds):
                bodies = [numbered(turn * options.requests + i, height, width) for i in range(options.requests)]
                for i, body in enumerate(bodies):
                    (Path(folder) / f"{i}.jpg").write_bytes(body)
                start, own = time.perf_counter(), []
                for i in range(options.requests):
                    result = segmenter(Path(folder) / f"{i}.jpg")
                    result.save(Path(folder) / f"{i}.png")
                    own.append(result.labels)
                loop = time.perf_counter() - start
                start = time.perf_counter()
                answers = list(pool.map(lambda body: ask(port, body), bodies))
                served = time.perf_counter() - start
                ratios.append(loop / served)
                for (took, status, content), labels in zip(answers, own, strict=True):
                    seconds.append(took)
                    if status != 200:
                        lost += 1
                        continue
                    with Image.open(io.BytesIO(content)) as picture:
                        mask = np.asarray(picture)
                    wrong += mask.shape != labels.shape or (mask == labels).mean() < SAME
                rates = f"loop {options.requests / loop:.2f}/s, served {options.requests / served:.2f}/s"
                print(f"round {turn + 1}: {rates}, ratio {ratios[-1]:.2f}", flush=True)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    p50, p99 = torch.tensor(seconds).quantile(torch.tensor([0.5, 0.99])).tolist()
    summary = {
        "weights": options.weights,
        "photos": options.size,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "concurrency": CONCURRENCY,
        "requests": len(seconds),
        "ratio": round(float(np.median(ratios)), 3),
        "p50": round(p50, 3),
        "p99": round(p99, 3),
        "lost": lost,
        "wrong": int(wrong),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
