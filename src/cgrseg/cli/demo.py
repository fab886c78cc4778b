"""`cgrseg demo`: the main job on a photo that every installation has, with the weights that come along."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = "cgrseg_t-ccp12"


def demo(*, out: Path = Path("outputs/demo")) -> None:
    """Label the sample photo that comes with matplotlib, with the bundled weights.

    Writes an overlay and a mask, and prints the share of each class, what the weights scored on their test
    photos, the time taken and where the files are. Needs no download.

    Args:
        out: folder for the two pictures
    """
    from time import perf_counter

    import matplotlib

    import cgrseg

    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    out.mkdir(parents=True, exist_ok=True)
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
    print(f"overlay   {overlay}\nmask      {mask}")
