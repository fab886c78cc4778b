"""`cgrseg convert-masks`: masks in colours become masks of class ids."""

from __future__ import annotations

from typing import Literal


def convert_masks(
    source: str, *, out: str, classes: str | None = None, unknown: Literal["refuse", "ignore", "nearest"] = "refuse"
) -> int:
    """Turn masks that mark classes by colour (or grey level) into PNGs of class ids.

    Sub-folders are mirrored. All masks are read before the first is written: where one doesn't fit, every one
    that doesn't is named, nothing is written and the exit code is 1. Without a class list, each colour that
    fills at least 2x2 pixels somewhere is a class, and a classes.json to edit is written beside the masks.

    Args:
        source: folder of the masks in colours, such as data/masks
        out: another folder; nothing in it is overwritten
        classes: a classes.json with the colours; default: the one in the source folder or the folder above it,
            if there is one
        unknown: pixels whose colour is no class's: refuse the mask, ignore these pixels (255 in the mask), or
            take the class of the nearest colour
    """
    import sys
    from pathlib import Path

    from cgrseg.labels import LabelSpace

    folder, target = Path(source), Path(out)
    if target.resolve() == folder.resolve():
        raise ValueError(f"--out {out} is the source itself: choose another folder")
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: name a folder")
    listed = [Path(classes)] if classes is not None else [folder / "classes.json", folder.parent / "classes.json"]
    found = next((path for path in listed if path.is_file()), None)
    if classes is not None and found is None:
        raise FileNotFoundError(f"no class list at {classes}")

    from tqdm import tqdm

    from cgrseg.data.convert_masks import Palette, convert, discover, find_masks, problems, write_classes

    masks = find_masks(folder)
    masks = [path for path in masks if not path.resolve().is_relative_to(target.resolve())]
    outputs = [target / path.relative_to(folder).with_suffix(".png") for path in masks]
    written = outputs if found is not None else [*outputs, target / "classes.json"]
    for path in written:
        if path.exists():
            raise FileExistsError(f"{path} exists already: choose another --out, or remove it first")
    palette = Palette.of(LabelSpace.from_classes_json(found) if found is not None else discover(masks))
    wrong = problems(masks, palette, unknown)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        print(f"{len(wrong)} of {len(masks)} masks don't fit, nothing was written", file=sys.stderr)
        return 1
    ignored = total = 0
    for path, output in zip(tqdm(masks, unit="mask", delay=1, disable=None), outputs, strict=True):
        left_out, pixels = convert(path, output, palette, unknown)
        ignored, total = ignored + left_out, total + pixels
    print(f"{len(masks)} masks, {len(palette.labels)} classes, {ignored / total:.2%} of the pixels ignored -> {out}")
    if found is None:
        write_classes(palette.labels, target / "classes.json")
        print(f"classes named by colour in {target / 'classes.json'}: edit the names, put it beside images/ and masks/")
    return 0
