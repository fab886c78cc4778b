"""Run a model over a labelled split, at each photo's own size."""

from __future__ import annotations

import numpy as np
import torch
from tqdm import tqdm

from cgrseg.data.datasets import FolderDataset, to_class_ids
from cgrseg.inference.labelmap import label_map
from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Preprocessing

from .confusion import ConfusionMatrix


@torch.inference_mode()
def evaluate(model: CGRSeg, samples: FolderDataset, preprocessing: Preprocessing) -> ConfusionMatrix:
    """Whole-photo inference in float32 over every pair; the model is left in evaluation mode.

    Raises:
        ValueError: a pair can't be read, see `FolderDataset.read`.
    """
    model.eval()
    device = next(model.parameters()).device
    confusion = ConfusionMatrix(len(samples.labels), ignore_index=samples.labels.ignore_index)
    for index in tqdm(range(len(samples)), unit="photo", desc="evaluate", leave=False):
        photo, mask = samples.read(index)
        image, valid = preprocessing.prepare(np.asarray(photo))
        logits = model(image[None].to(device, memory_format=torch.channels_last))
        size = (photo.height, photo.width)
        predicted = label_map(logits, size, input_size=(image.shape[1], image.shape[2]), valid=valid)[0]
        confusion.update(predicted.cpu(), torch.from_numpy(to_class_ids(mask)))
    return confusion
