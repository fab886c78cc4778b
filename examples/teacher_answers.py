"""Make a dataset for training with a teacher: photos with masks, photos without, and a network's logits for both.

    pip install ai-edge-litert
    python examples/teacher_answers.py deeplab.tflite voc vocplus --more camvid/images/train ccp/images/train
    cgrseg train --data vocplus --teacher vocplus/teacher --loss.teacher 1 ...

The network is a DeepLabV3 of Pascal VOC in uint8 for LiteRT (Google's Coral models, Apache-2.0). The logits are the
input of its ArgMax. They are stored at an eighth of the photo's size as float16, 21 values per cell. Photos without
masks get masks of 255, which training ignores. Photos are linked, not copied.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from cgrseg.images.photos import read_photo

IGNORED = 255


class Teacher:
    """A quantised DeepLabV3 in LiteRT: a photo uint8 [H, W, 3] -> logits float16 [21, H/8, W/8]."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.network: Any = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
        self.network.allocate_tensors()
        self.input = self.network.get_input_details()[0]
        (argmax,) = (op for op in self.network._get_ops_details() if op["op_name"] == "ARG_MAX")
        self.logits = next(one for one in self.network.get_tensor_details() if one["index"] == argmax["inputs"][0])

    def __call__(self, photo: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        side = int(self.input["shape"][1])
        height, width = photo.shape[:2]
        scale = side / max(height, width)
        tall, wide = round(height * scale), round(width * scale)
        padded = np.full((side, side, 3), 127, np.uint8)  # 127 is the network's zero
        padded[:tall, :wide] = np.asarray(Image.fromarray(photo).resize((wide, tall), Image.Resampling.BILINEAR))
        self.network.set_tensor(self.input["index"], padded[None])
        self.network.invoke()
        factor, zero = self.logits["quantization"]
        stored = torch.from_numpy(self.network.get_tensor(self.logits["index"])[0].astype(np.float32))
        logits = ((stored - zero) * factor).permute(2, 0, 1)[None]
        full = F.interpolate(logits, (side, side), mode="bilinear", align_corners=True)[..., :tall, :wide]
        cells = F.interpolate(full, (-(-height // 8), -(-width // 8)), mode="bilinear", antialias=True)
        return cells[0].half().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".tflite")
    parser.add_argument("data", type=Path, help="a dataset folder with the model's classes")
    parser.add_argument("out", type=Path, help="the new dataset folder")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="folders of photos without masks")
    options = parser.parse_args()
    teacher = Teacher(options.model)
    for split in sorted(path.name for path in (options.data / "images").iterdir()):
        for kind in ("images", "masks"):
            link_all(options.data / kind / split, options.out / kind / split)
    shutil.copyfile(options.data / "classes.json", options.out / "classes.json")
    images, masks, answers = options.out / "images/train", options.out / "masks/train", options.out / "teacher"
    answers.mkdir(exist_ok=True)
    for folder in options.more:
        link_all(folder, images)
    for path in sorted(images.iterdir()):
        photo = read_photo(path)
        np.save(answers / f"{path.stem}.npy", teacher(photo))
        if not (masks / f"{path.stem}.png").exists():
            Image.fromarray(np.full(photo.shape[:2], IGNORED, np.uint8)).save(masks / f"{path.stem}.png")


def link_all(source: Path, target: Path) -> None:
    """Link every file of a folder into another."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if not (target / path.name).exists():
            os.symlink(path.resolve(), target / path.name)


if __name__ == "__main__":
    main()
