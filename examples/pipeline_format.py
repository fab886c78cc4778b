"""The output format of transformers' image-segmentation pipeline, for results of cgrseg.

    python examples/pipeline_format.py photo.jpg cgrseg_lite-voc21

`transformers.pipeline("image-segmentation")` returns a list with one entry per class:
{"score": None, "label": name, "mask": black and white image of the photo's size}. For semantic segmentation the
score is always None.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image

import cgrseg
from cgrseg.inference.result import Segmentation


def pipeline_format(segmentation: Segmentation) -> list[dict[str, Any]]:
    """One {"score", "label", "mask"} per class in the photo, sorted by class id."""
    labels = segmentation.labels  # H W
    return [
        {
            "score": None,
            "label": segmentation.names[index],
            "mask": Image.fromarray(np.where(labels == index, np.uint8(255), np.uint8(0))),
        }
        for index in np.unique(labels)
    ]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python pipeline_format.py PHOTO WEIGHTS")
    photo, weights = sys.argv[1:]
    for entry in pipeline_format(cgrseg.Segmenter(weights)(photo)):
        print(entry)
