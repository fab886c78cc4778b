"""`cgrseg demo`: a real photo labelled by the weights that come along, then a small model trained from nothing."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = "cgrseg_t-ccp12"
STEPS = 150  # about a minute on two cores


def demo(*, out: Path = Path("outputs/demo"), train: bool = True) -> None:
    """Label the sample photo that comes with matplotlib, then train the nano model on drawn scenes for a minute.

    Writes an overlay and a mask of the photo, and the run folder of the training with its curves and samples;
    prints the share of each class, the scores, the time taken and where the files are. Needs no download. A
    second run finds the training done and only scores it again.

    Args:
        out: folder for all of it
        train: false leaves the training out
    """
    out.mkdir(parents=True, exist_ok=True)
    label_photo(out)
    if train:
        train_nano(out / "training")


def label_photo(out: Path) -> None:
    """The main job."""
    from time import perf_counter

    import matplotlib

    import cgrseg

    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    start = perf_counter()
    segmenter = cgrseg.Segmenter(WEIGHTS)
    loaded = perf_counter()
    segmentation = segmenter(photo)
    labelled = perf_counter()

    overlay, mask = out / f"{photo.stem}.overlay.png", out / f"{photo.stem}.mask.png"
    segmentation.overlay().save(overlay)
    segmentation.save(mask)

    height, width = segmentation.labels.shape
    print(f"{photo.name}, {width} x {height} pixels, labelled by {WEIGHTS}\n")
    shares = {name: share for name, share in segmentation.areas().items() if share >= 0.0005}
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"  {name:<{max(map(len, shares))}}  {share:6.1%}")
    miou = vars(segmenter.model)["card"]["miou"]
    print(f"\nweights   {miou:.1f} % mIoU, measured on the test photos of their dataset")
    print(f"time      {loaded - start:.2f} s to load, {labelled - loaded:.2f} s for the photo")
    print(f"overlay   {overlay}\nmask      {mask}\n", flush=True)


def train_nano(run: Path) -> None:
    """Training, scoring and the curve, on scenes that are drawn while it runs."""
    import csv

    from cgrseg.data.settings import Augmentation
    from cgrseg.training.config import OptimConfig, TrainConfig
    from cgrseg.training.loop import train as fit

    print(f"training cgrseg_n on drawn scenes for {STEPS} steps: the same as `cgrseg train` with a --data folder")
    config = TrainConfig(
        out=str(run),
        model="cgrseg_n",
        steps=STEPS,
        batch=8,
        augment=Augmentation(crop=96, resize_to=None, scale=(0.375, 0.75)),
        optim=OptimConfig(lr=3e-3),
        val_every=STEPS // 3,
        save_every=STEPS // 3,
    )
    card = fit(config, resume=True)
    print("\n  step  val mIoU")
    for row in csv.DictReader((run / "metrics.csv").read_text(encoding="utf-8").splitlines()):
        share = float(row["miou"])
        print(f"  {row['step']:>4}  {share:6.1%}  {'█' * round(40 * share)}")
    print(f"\ntest      {card['miou']:.1f} % mIoU on scenes that it never saw")
    for name in ("curves.png", "classes.png", "samples.png", "last.safetensors"):
        print(f"{Path(name).stem:<8}  {run / name}")
