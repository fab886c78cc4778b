"""Weights of cgrseg in the form of transformers' image-segmentation pipeline, without transformers or remote code.

    python examples/pipeline_format.py photo.jpg cgrseg_lite-voc21

`pipeline(weights)` is called like `transformers.pipeline("image-segmentation")`: with an image or a list of images. It
returns a list with one entry per class: {"score": None, "label": name, "mask": black and white image of the photo's
size}. For semantic segmentation the score is always None.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

import cgrseg
from cgrseg.inference.result import Segmentation


def pipeline(weights: str, **options: Any) -> Callable[[Any], list[Any]]:
    """A function of one image (file or PIL image) or a list of images; `options` are those of `cgrseg.Segmenter`."""
    segmenter = cgrseg.Segmenter(weights, **options)

    def segment(images: Any) -> list[Any]:
        found = segmenter(images)
        return [pipeline_format(each) for each in found] if isinstance(found, list) else pipeline_format(found)

    return segment


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
    for entry in pipeline(weights)(photo):
        print(entry)
