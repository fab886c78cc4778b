"""First steps: `cgrseg demo`, `cgrseg app` and `cgrseg doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import Port, PositiveInt

from cgrseg._text import printable, table

from ._common import check_folder, check_weights, split_commas

WEIGHTS = "cgrseg_lite-voc21"


def demo(
    *,
    out: Path = Path("outputs/demo"),
    train: Annotated[bool, Parameter(negative="no-train")] = True,
    steps: PositiveInt = 150,
) -> None:
    """Label a sample image, then train a small model.

    Labels the sample photo of matplotlib with bundled weights and trains cgrseg_n on synthetic scenes. Writes an
    overlay, a mask and a run folder with curves and samples; prints class shares, scores and times. Needs no
    download. When the training is finished, a second run only prints its scores again.

    Example: `cgrseg demo`

    Args:
        out: output folder
        train: train the small model
        steps: training steps; 150 take about a minute on two cores
    """
    check_folder(out)
    _label_photo(out)
    if train:
        _train_nano(out / "training", steps)


def _label_photo(out: Path) -> None:
    from time import perf_counter

    import matplotlib

    import cgrseg
    from cgrseg.images.files import save_image

    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    start = perf_counter()
    segmenter = cgrseg.Segmenter(WEIGHTS)
    loaded = perf_counter()
    segmentation = segmenter(photo)
    labelled = perf_counter()

    overlay, mask = out / f"{photo.stem}.overlay.png", out / f"{photo.stem}.mask.png"
    save_image(segmentation.overlay(), overlay)
    segmentation.save(mask)

    height, width = segmentation.labels.shape
    print(f"{photo.name}, {width} x {height} pixels, labelled by {WEIGHTS}\n")
    shares = {name: share for name, share in segmentation.areas().items() if share >= 0.0005}
    rows = [(name, f"{share:.1%}") for name, share in sorted(shares.items(), key=lambda item: -item[1])]
    print("\n".join(f"  {line}" for line in table(rows).splitlines()))
    print(f"\nweights   {segmenter.description.card['miou']:.1f} % mIoU on the test images of their dataset")
    print(f"time      {loaded - start:.2f} s to load, {labelled - loaded:.2f} s for the image")
    print(f"overlay   {printable(overlay)}\nmask      {printable(mask)}\n", flush=True)


def _train_nano(run: Path, steps: int) -> None:
    import csv

    import cgrseg
    from cgrseg.data.settings import Augmentation
    from cgrseg.training.config import OptimConfig, TrainConfig

    print(f"training cgrseg_n on synthetic scenes for {steps} steps, as `cgrseg train` does with --data FOLDER")
    config = TrainConfig(
        out=str(run),
        model="cgrseg_n",
        steps=steps,
        batch=8,
        augment=Augmentation(crop=96, resize_to=None, scale=(0.375, 0.75)),
        optim=OptimConfig(lr=3e-3),
        val_every=max(steps // 3, 1),
        save_every=max(steps // 3, 1),
    )
    scores = cgrseg.train(config, resume=True).scores
    print("\n  step  val mIoU")
    for row in csv.DictReader((run / "metrics.csv").read_text(encoding="utf-8").splitlines()):
        share = float(row["miou"])
        print(f"  {row['step']:>4}  {share:6.1%}  {'█' * round(40 * share)}")
    print(f"\ntest      {scores['miou']:.1f} % mIoU on scenes that were not used for training")
    for name in ("curves.png", "classes.png", "samples.png", "last.safetensors"):
        print(printable(f"{Path(name).stem:<8}  {run / name}"))


def app(
    *,
    weights: Annotated[list[str] | None, Parameter(metavar="FILE...")] = None,
    device: str = "auto",
    short_side: int | None = None,
    host: str = "127.0.0.1",
    port: Port | None = None,
    browser: bool = False,
) -> None:
    """Open a web page that labels photos, camera and videos.

    The page shows classes, their shares and the confidence of photos, exports overlays, masks, cut-outs, polygons and
    tables, labels the camera and videos, and compares two models. Photos stay on this machine. Needs the extra "app".

    Example: `cgrseg app --browser`

    Args:
        weights: weights files or names to choose from; default: the bundled weights
        device: auto, cpu, cuda or cuda:N
        short_side: shorter side in pixels that images are resized to for the network; default: as stored in the
            weights
        host: address to listen on; 0.0.0.0 accepts other machines
        port: port to listen on; default: the first free port from 7860
        browser: open the page in the browser
    """
    names = [name for given in weights or () for name in ([given] if Path(given).exists() else split_commas([given]))]
    check_weights(*names)
    print("loading the page, which takes some seconds", file=sys.stderr, flush=True)
    from cgrseg._process import fast_imports

    try:
        with fast_imports():
            from cgrseg.web import launch, make_page
            from cgrseg.weights.load import list_weights
    except ModuleNotFoundError as error:
        raise ValueError(f'the page needs {error.name}: pip install "cgrseg[app]"') from error

    names = names or list_weights()
    if not names:
        raise ValueError("there are no bundled weights: add --weights FILE")
    launch(make_page(names, device=device, short_side=short_side), host=host, port=port, browser=browser)


def doctor(*, device: str = "auto", clear_cache: bool = False) -> int:
    """Check the installation and label a test image.

    Shows versions, devices, runtimes and optional packages, with the command that installs what is missing, and how
    long each way to run the network takes. Exit code 1 means that something is broken; missing optional packages are
    not. Please paste the output into bug reports.

    Example: `cgrseg doctor`

    Args:
        device: device of the test: auto, cpu, cuda or cuda:N
        clear_cache: only remove the converted networks; they are made again when they are needed
    """
    from collections.abc import Callable

    if clear_cache:
        from cgrseg.inference import cache

        print(f"removed {cache.clear() / 1e6:.1f} MB of converted networks from {cache.cache_folder()}")
        return 0

    from cgrseg.measure import environment

    sections: dict[str, Callable[[], list[environment.Finding]]] = {
        "versions": environment.versions,
        "devices": environment.devices,
        "runtimes": environment.runtimes,
        "optional parts": environment.extras,
        "weights": lambda: [environment.hub(), environment.self_test(device)],
        "speed": environment.speeds,
    }
    broken = []
    for title, check in sections.items():
        findings = check()
        width = max(len(finding.name) for finding in findings)
        print(f"{title}:")
        for finding in findings:
            mark = " " if finding.works else "!"
            print(printable(f" {mark} {finding.name:<{width}}  {finding.state}"))
            if finding.cure:
                print(printable(f"   {'':<{width}}  -> {finding.cure}"))
        broken += [finding.name for finding in findings if not finding.works]
        print(flush=True)
    print(f"broken: {', '.join(broken)}" if broken else "all is well")
    return 1 if broken else 0
