"""Deviation of our logits from those of the released code on synthetic weights, per case, in float64 and float32.

.venv/bin/python benchmarks/parity.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import parity_fill as rule

from cgrseg.nn import build
from cgrseg.weights.adapters import load_official

VARIANTS = {"T": ("cgrseg_t", {}), "B": ("cgrseg_b", {"context_blocks": 6}), "L": ("cgrseg_l", {})}


@torch.inference_mode()
def main() -> None:
    print(f"{'case':<22}{'float64':>10}{'float32':>10}   largest deviation of the sampled logits")
    for path in sorted(rule.GOLDENS.glob("fwd_*.npz")):
        golden = np.load(path)
        variant = path.stem.split("_")[1]
        name, options = VARIANTS[variant]
        model = build(name, **options).eval()
        load_official(model, rule.released_state(variant))
        images = rule.make_input("x", tuple(golden["input_shape"]))
        deviations = []
        for dtype in (torch.float64, torch.float32):
            logits = model.to(dtype)(images.to(dtype)).numpy()
            deviations.append(np.abs(logits[:, golden["channels"], ::4, ::4] - golden["logits_sub"]).max())
        print(f"{path.stem:<22}{deviations[0]:>10.1e}{deviations[1]:>10.1e}")


if __name__ == "__main__":
    main()
