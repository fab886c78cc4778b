"""A model and the loss of cgrseg as a LightningModule: `pip install lightning`.

python examples/lightning_module.py mydata weights.safetensors
"""

from __future__ import annotations

import sys
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import cgrseg
from cgrseg.data.listing import open_dataset
from cgrseg.data.settings import Augmentation
from cgrseg.data.transforms import TrainingCrops, collate
from cgrseg.labels import LabelSpace


class SegmentationModule(lightning.LightningModule):
    """Trains a model of `cgrseg.create_model`.

    Args:
        labels: the classes.
        name: of the model.
        lr: peak learning rate.
    """

    def __init__(self, labels: LabelSpace, name: str = "cgrseg_n", lr: float = 1e-3) -> None:
        super().__init__()
        self.model = cgrseg.create_model(name, num_classes=len(labels))
        self.model.describe(labels=labels)
        self.loss = cgrseg.SegmentationLoss(ignore_index=labels.ignore_index)
        self.lr = lr

    def training_step(self, batch: tuple[Any, ...], _number: int) -> Tensor:
        """The loss of images float [B, 3, H, W] and masks int64 [B, H, W]."""
        images, masks = batch[:2]
        loss: Tensor = self.loss(self.model(images), masks)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.05)


def train(data: str, out: str, *, steps: int = 500, batch: int = 8, crop: int = 128, **options: Any) -> None:
    """Train and save; `options` are for the Trainer."""
    samples = open_dataset(data, "train")
    module = SegmentationModule(samples.labels)
    crops = TrainingCrops(
        samples=samples,
        augmentation=Augmentation(crop=crop, resize_to=None),
        preprocessing=module.model.preprocessing,
        seed=0,
    )
    loader = DataLoader(crops, batch, sampler=range(steps * batch), collate_fn=collate)
    lightning.Trainer(max_epochs=1, **options).fit(module, loader)
    cgrseg.save(module.model.eval(), out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python lightning_module.py DATA OUT")
    train(*sys.argv[1:])
