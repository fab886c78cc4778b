"""Speed of the folded network against the eager one: `python benchmarks/fuse.py --threads 2`.

The networks run in turn, so other load slows all. The result is the median of the rounds' ratios with a 95 %
bootstrap interval.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch

from cgrseg.measure.interleave import ratio
from cgrseg.nn import VARIANTS, build
from cgrseg.nn.fusion import fuse


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cgrseg_t", choices=list(VARIANTS))
    parser.add_argument("--bias-mode", default="official", choices=["official", "relative"])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    model = build(options.model, bias_mode=options.bias_mode).eval()
    fused = fuse(model)
    images = torch.randn(1, 3, options.size, options.size)
    last = torch.channels_last
    sides = {
        "eager": (model, images),
        "folded": (fused, images),
        "folded, channels-last": (fuse(model).to(memory_format=last), images.to(memory_format=last)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 2):  # two of them are warm-up
        for name, (network, photo) in sides.items():
            start = time.perf_counter()
            network(photo)
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)

    print(
        f"{options.model}, {options.bias_mode} bias, {options.size}x{options.size}, 150 classes, float32, "
        f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}, {options.rounds} rounds"
    )
    print(f"{'':<24}{'median ms':>10}{'eager / it':>12}  95 % interval")
    for name, values in seconds.items():
        one = ratio(seconds["eager"], values)
        print(f"{name:<24}{1000 * statistics.median(values):>10.1f}{one.median:>12.2f}", end="")
        print(f"  {one.low:.2f} … {one.high:.2f}")


if __name__ == "__main__":
    main()
