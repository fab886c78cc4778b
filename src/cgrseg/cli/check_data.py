"""`cgrseg check-data`: what is wrong with a dataset, before an hour of training finds out."""

from __future__ import annotations

from cgrseg.data.settings import Format


def check_data(folder: str, *, format: Format = "folder", out: str | None = None, limit: int = 10) -> int:
    """Open every photo and mask of a dataset and list all that is wrong, with file, value and cure.

    Prints counts, sizes and the share of each class. The exit code is 1 where something would ruin a run:
    photos without a mask, files that can't be read, masks of another size or in colours, ids outside the class
    list, photos that are in more than one split. Warnings (unused files, absent classes, masks that look
    smoothed, copies within a split) leave it 0.

    Args:
        folder: the dataset
        format: how it is laid out
        out: a PNG to write: photos of each split beside their masks, with a legend
        limit: findings shown of each kind; 0 shows all
    """
    from pathlib import Path

    if limit < 0:
        raise ValueError(f"--limit is {limit}: use 0 to show all findings, or a number of them")
    if out is not None and Path(out).suffix.lower() != ".png":
        raise ValueError(f"--out {out} is no PNG: give a name that ends in .png")

    from cgrseg.data.check import inspect
    from cgrseg.data.contact_sheet import contact_sheet
    from cgrseg.data.listing import list_dataset
    from cgrseg.images.files import atomic_write

    report = inspect(folder, format)
    print(report.text(limit=limit))
    if out is not None and report.labels is not None and any(split.pixels.any() for split in report.splits):
        sheet = contact_sheet(list_dataset(Path(folder), format).splits)
        with atomic_write(out) as path:
            sheet.save(path)
        print(f"\ncontact sheet in {out}")
    return 1 if report.errors else 0
