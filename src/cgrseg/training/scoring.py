"""Evaluate during a run, in at most a tenth of its time, and write the weights with their cards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from lightning_fabric import Fabric
from PIL import Image

from cgrseg.data.dataset import Samples
from cgrseg.evaluation import Scores, evaluate
from cgrseg.inference.network import evaluation_mode, open_network
from cgrseg.inference.predictor import Predictor
from cgrseg.weights.artifact import load, save

from .checkpoint import LOG, RunFolder
from .config import TrainConfig
from .loggers import PictureLogger
from .pictures import PICTURES, draw, samples_sheet
from .progress import Progress, RunFailed, is_false
from .setup import Data, Parts

SHARE = 0.1  # of the training time, at most, for scoring during the run
LEAST = 8  # images: a score of fewer says too little


class Scoring:
    """Scores a run on its val split while it trains, and on its test split at the end.

    With `val_every` all val images are scored. Otherwise the first scoring measures how many fit into a tenth of the
    time; from then on the same images are scored, spread evenly over the split, so that the scores of a run can be
    compared. Scoring never changes what is trained.

    Args:
        fabric, config, data, parts, folder, progress: of the run.
        say: prints a line.
        on_score: see `cgrseg.train`.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: TrainConfig,
        data: Data,
        parts: Parts,
        folder: RunFolder,
        progress: Progress,
        *,
        say: Callable[[str], None],
        on_score: Callable[[dict[str, Any]], object] | None,
    ) -> None:
        self.fabric, self.config, self.data, self.parts = fabric, config, data, parts
        self.folder, self.progress, self.say = folder, progress, say
        self.on_score, self.refused = on_score, False
        self.spent = self.per_image = 0.0  # seconds

    @property
    def patience_ended(self) -> bool:
        """Whether there were so many evaluations without a higher mIoU that the run ends."""
        return self.config.patience is not None and self.progress.without_gain >= self.config.patience

    @property
    def enough(self) -> bool:
        """Whether the run ends here: by patience, or because `on_score` returned False."""
        return self.refused or self.patience_ended

    def during(self, seconds_per_step: float, trained: float, *, last: bool) -> bool:
        """Score the val split if it is time; write the best weights so far to best.safetensors.

        Args:
            seconds_per_step: of training.
            trained: seconds of training since this process started.
            last: whether no step follows.

        Returns:
            Whether anything was scored.
        """
        progress, config = self.progress, self.config
        if not last and progress.step % config.scores_every:
            return False
        count = len(self.data.val)
        scores = None
        if config.val_every is None:
            if progress.val_images is None:
                images = min(LEAST, count)
                scores = self._score(self.data.val, spread(count, images))
                budget = SHARE * seconds_per_step * config.scores_every
                fitting = min(max(int(budget / max(self.per_image, 1e-9)), images), count)
                progress.val_images = self.fabric.broadcast(fitting)
                if progress.val_images < count:
                    self.say(
                        f"scoring {progress.val_images} of {count} val images during the run, to take at most a tenth "
                        "of its time, and all at the end; --val_every N scores all every N steps"
                    )
                scores = scores if progress.val_images == images else None
            else:
                cost = progress.val_images * self.per_image
                if self.fabric.broadcast(not last and self.spent + cost > SHARE * trained):
                    return False
            count = progress.val_images
        scores = scores or self._score(self.data.val, spread(len(self.data.val), count))
        self._record(scores)
        return True

    def _record(self, scores: Scores) -> None:
        progress, miou = self.progress, scores.mean_iou()
        self._log("val", scores)
        if self.config.loggers and self.fabric.is_global_zero:
            with evaluation_mode(self.parts.scored):
                self._log_picture("val/samples", samples_sheet(self.parts.scored, self.data.val))
        if self.fabric.is_global_zero:
            split = self.data.val.split
            self.say(f"step {progress.step}: {split} mIoU {100 * miou:.2f} %")
            row = {"step": progress.step, "split": split, "miou": miou}
            row |= {name: getattr(scores.confusion, name)() for name in ("mean_accuracy", "accuracy")}
            self.folder.metrics({**row, "images": len(scores.photo_iou)})
            if not miou <= progress.best:
                self._write("best", self.card(scores, self.data.val))
            if self.on_score is not None:
                numbers = {"step": progress.step, **_numbers(scores, self.data.val)}
                self.refused = is_false(self.on_score(numbers))
        if self.on_score is not None:
            self.refused = self.fabric.broadcast(self.refused)
        progress.without_gain = progress.without_gain + 1 if miou <= progress.best else 0
        progress.best = max(progress.best, miou)

    def at_the_end(self) -> dict[str, Any]:
        """Score the test split (or val) in full; write last.safetensors and the pictures; return the card.

        If the best weights were chosen by a part of the val split, they are scored on all of it here.
        """
        scores = self._score(self.data.test)
        card = self.card(scores, self.data.test)
        self._log("final", scores)
        if self.fabric.is_global_zero:
            self._write("last", card)
            with evaluation_mode(self.parts.scored):
                draw(self.folder, self.parts.scored, self.data.test, scores)
            for name in PICTURES if self.config.loggers else ():
                with Image.open(self.folder.path / f"{name}.png") as picture:
                    self._log_picture(f"final/{name}", picture)
        if (self.progress.val_images or math.inf) < len(self.data.val):
            path = self.folder.path / "best.safetensors"
            best = load(path) if self.fabric.is_global_zero else None
            tensors = None if best is None else best.state_dict()
            self.parts.scored.load_state_dict(self.fabric.broadcast(tensors))  # type: ignore[arg-type]
            scores = self._score(self.data.val)
            if best is not None:
                with self.folder.writing(path.name):
                    save(best, path, card={**best.card, **_numbers(scores, self.data.val)})
        self.fabric.barrier()
        return card

    def _log(self, name: str, scores: Scores) -> None:
        """Send mIoU, accuracies and the IoU of each class that occurs to the loggers, as shares 0 … 1."""
        confusion = scores.confusion
        shares = {"miou": scores.mean_iou(), "mean_accuracy": confusion.mean_accuracy()}
        shares["accuracy"] = confusion.accuracy()
        ious = zip(scores.labels.names, confusion.class_iou().tolist(), strict=True)
        shares |= {f"iou/{label}": iou for label, iou in ious if not math.isnan(iou)}
        self.fabric.log_dict({f"{name}/{key}": value for key, value in shares.items()}, step=self.progress.step)

    def _log_picture(self, name: str, picture: Image.Image) -> None:
        for logger in self.fabric.loggers:
            cast(PictureLogger, logger).log_picture(name, picture.convert("RGB"), self.progress.step)

    def card(self, scores: Scores, samples: Samples) -> dict[str, Any]:
        """The card of a weights file: recipe, scores, and the card of the initial weights."""
        return {
            "recipe": self.config.card(),
            "init": self.parts.network.card or None,
            "step": self.progress.step,
            **_numbers(scores, samples),
        }

    def _score(self, samples: Samples, indices: Sequence[int] | None = None) -> Scores:
        start = time.monotonic()
        try:
            network = open_network(self.parts.scored, "torch")  # folded: a fifth faster
            scores = evaluate(Predictor(network), samples, indices=indices, fabric=self.fabric)
        except ValueError as error:  # the same in all processes
            if "not finite" in str(error):
                raise RunFailed(
                    f"the training diverged: at step {self.progress.step}, with a loss of {self.progress.loss:.3g}, "
                    "the network's outputs are not finite: lower --optim.lr or set --optim.clip 1; the losses are in "
                    f"{self.folder.path / LOG}"
                ) from error
            raise RunFailed(str(error)) from error
        seconds = time.monotonic() - start
        self.spent += seconds
        self.per_image = seconds / len(scores.photo_iou)
        return scores

    def _write(self, name: str, card: dict[str, Any]) -> None:
        path = self.folder.path / f"{name}.safetensors"
        with self.folder.writing(path.name):
            save(self.parts.scored, path, card=card)


def spread(count: int, most: int) -> list[int]:
    """`most` of the numbers 0 … count - 1, evenly spaced."""
    return [place * count // most for place in range(most)]


def _numbers(scores: Scores, samples: Samples) -> dict[str, Any]:
    ious = map(_percent, scores.confusion.class_iou().tolist())
    return {
        "split": samples.split,
        "images": len(scores.photo_iou),
        "miou": _percent(scores.mean_iou()),
        "mean_accuracy": _percent(scores.confusion.mean_accuracy()),
        "accuracy": _percent(scores.confusion.accuracy()),
        "class_iou": dict(zip(samples.labels.names, ious, strict=True)),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else round(100 * share, 2)
