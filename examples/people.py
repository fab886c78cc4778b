"""Add person masks of Clothing Co-Parsing to a dataset with VOC's classes: whole photos, and close-ups.

    python examples/people.py ccp vocplus

Every class of CCP but background becomes "person". A close-up is the upper 28 to 50 % of a person, enlarged to a
shorter side of 400 pixels. If the dataset has answers of a teacher (examples/teacher_answers.py), the new photos get
answers made of their masks. The same call gives the same files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, SMALLEST = 400, 60  # shorter side of close-ups: after enlarging, and least before, pixels
CLASSES, PERSON, IGNORED = 21, 15, 255
CERTAIN = 9.0  # logit of the mask's class; the others have 0
Box = tuple[int, int, int, int]  # left, top, right, bottom


def upper_body(mask: np.ndarray, random: np.random.Generator) -> Box | None:
    """The head and a random part of the body, with a margin; None if there is too little of a person."""
    rows, columns = np.nonzero(mask == PERSON)
    if len(rows) < 2000:
        return None
    top, height = int(rows.min()), int(rows.max() - rows.min())
    bottom = int(top + random.uniform(0.28, 0.5) * height)
    top = max(0, int(top - random.uniform(0.02, 0.08) * height))
    inside = columns[(rows >= top) & (rows < bottom)]
    left, right = int(inside.min()), int(inside.max())
    margin = int(random.uniform(0.02, 0.25) * (right - left))
    box = (max(0, left - margin), top, min(mask.shape[1], right + margin), bottom)
    return box if min(box[2] - box[0], box[3] - box[1]) >= SMALLEST else None


def add(data: Path, name: str, photo: Image.Image, mask: np.ndarray) -> None:
    """Write photo, mask and, if there is such a folder, the teacher's answer."""
    photo.save(data / "images/train" / f"{name}.jpg", quality=95)
    Image.fromarray(mask).save(data / "masks/train" / f"{name}.png")
    if (data / "teacher").is_dir():
        height, width = mask.shape
        small = np.asarray(Image.fromarray(mask).resize((-(-width // 8), -(-height // 8)), Image.Resampling.NEAREST))
        logits = np.zeros((CLASSES, *small.shape), np.float16)
        for label in (0, PERSON):
            logits[label][small == label] = CERTAIN
        np.save(data / "teacher" / f"{name}.npy", logits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ccp", type=Path)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    for path in sorted((options.ccp / "images/train").iterdir()):
        photo = Image.open(path).convert("RGB")
        labels = np.asarray(Image.open(options.ccp / "masks/train" / f"{path.stem}.png"))
        mask = np.where(labels == IGNORED, IGNORED, np.where(labels == 0, 0, PERSON)).astype(np.uint8)
        add(options.data, f"ccp{path.stem}", photo, mask)
        if (box := upper_body(mask, random)) is None:
            continue
        scale = SIDE / min(box[2] - box[0], box[3] - box[1])
        size = (round((box[2] - box[0]) * scale), round((box[3] - box[1]) * scale))
        close = Image.fromarray(mask).crop(box).resize(size, Image.Resampling.NEAREST)
        enlarged = photo.crop(box).resize(size, Image.Resampling.LANCZOS)
        add(options.data, f"close{path.stem}", enlarged, np.asarray(close))


if __name__ == "__main__":
    main()
