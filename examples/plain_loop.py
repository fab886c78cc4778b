"""A plain PyTorch loop with a model, the loss and the crops of cgrseg.

    python examples/plain_loop.py mydata weights.safetensors

The dataset is a folder with images/train, masks/train and classes.json. The weights are for every command's --weights.
"""

from __future__ import annotations

import sys

import torch
from torch.utils.data import DataLoader

import cgrseg
from cgrseg.data.listing import open_dataset
from cgrseg.data.settings import Augmentation
from cgrseg.data.transforms import TrainingCrops, collate


def train(data: str, out: str, *, steps: int = 500, batch: int = 8, crop: int = 128, workers: int = 1) -> float:
    """Train cgrseg_n and save it; returns the last loss."""
    samples = open_dataset(data, "train")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = cgrseg.create_model("cgrseg_n", num_classes=len(samples.labels)).to(device).train()
    crops = TrainingCrops(
        samples=samples, augmentation=Augmentation(crop=crop, resize_to=None), preprocessing=model.preprocessing, seed=0
    )
    loader = DataLoader(crops, batch, sampler=range(steps * batch), num_workers=workers, collate_fn=collate)
    loss_of = cgrseg.SegmentationLoss(ignore_index=samples.labels.ignore_index)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps)
    loss = torch.zeros(())
    for images, masks, *_ in loader:  # float [B, 3, crop, crop], int64 [B, crop, crop]
        loss = loss_of(model(images.to(device)), masks.to(device))  # logits [B, K, crop/8, crop/8]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    cgrseg.save(model.eval(), out, labels=samples.labels)
    return loss.item()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python plain_loop.py DATA OUT")
    print(f"loss {train(*sys.argv[1:]):.3f}, weights in {sys.argv[2]}")
