"""The contact sheet of check-data: photos beside their masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cgrseg.images.bands import as_rgb
from cgrseg.images.render import INK, PAPER, Entry, with_legend
from cgrseg.images.text import drawable
from cgrseg.labels import LabelSpace

from .dataset import Samples, to_class_ids
from .masks import Ids

CELL = 200  # pixels of the longer side of a thumbnail
COLUMNS = 3  # pairs side by side
TITLE = 26  # pixels, height of a split's title
GAP = 6  # pixels
HATCH = 5  # pixels, width of the stripes over ignored pixels


def contact_sheet(splits: Sequence[Samples], *, each: int = 6) -> Image.Image:
    """Up to `each` photos of each split, evenly spaced, each beside a copy with its mask, and a legend.

    Ignored pixels are hatched. Pairs that can't be read are replaced by others.

    Args:
        splits: one or more, with the same classes.
        each: number of pairs per split.

    Raises:
        ValueError: no pair of any split can be read.
    """
    labels = splits[0].labels
    totals = np.zeros(len(labels), np.int64)
    ignored = 0
    rows: list[Image.Image] = []
    for samples in splits:
        pairs = _pick(samples, each)
        if not pairs:
            continue
        rows.append(_title(f"{samples.split}: {len(pairs)} of {len(samples)} photos"))
        cells = []
        for photo, ids in pairs:
            small, overlay = _thumbnails(photo, ids, labels)
            labelled = ids[ids != labels.ignore_index]
            totals += np.bincount(labelled, minlength=len(labels))
            ignored += ids.size - labelled.size
            cells.append(_beside([small, overlay], gap=0))
        rows += [_beside(cells[start : start + COLUMNS], gap=2 * GAP) for start in range(0, len(cells), COLUMNS)]
    if not rows:
        raise ValueError("no pair of the dataset can be read: there is nothing to show")
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height + GAP for row in rows)), PAPER)
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height + GAP
    shares = totals / max(int(totals.sum()), 1)
    order = [int(place) for place in np.argsort(-shares, kind="stable") if totals[place]]
    names = {k: drawable(labels.names[k], f"class {k}") for k in order}
    entries: list[Entry] = [(names[k], labels.colors[k], float(shares[k])) for k in order]
    if ignored:
        entries.append(("hatched: ignored", None, ignored / (ignored + int(totals.sum()))))
    return with_legend(page, entries)


def _pick(samples: Samples, each: int) -> list[tuple[Image.Image, Ids]]:
    count = len(samples)
    spread = [place * count // each for place in range(each)] if count > each else list(range(count))
    pairs: list[tuple[Image.Image, Ids]] = []
    for index in [*spread, *sorted(set(range(count)) - set(spread))[: 5 * each]]:
        if len(pairs) == each:
            break
        try:
            photo, mask = samples.read(index)
        except (OSError, ValueError):  # check-data reports it
            continue
        pairs.append((Image.fromarray(as_rgb(photo)), to_class_ids(mask)))
    return pairs


def _thumbnails(photo: Image.Image, ids: Ids, labels: LabelSpace) -> tuple[Image.Image, Image.Image]:
    """The photo, and the photo with its classes, each with CELL pixels on the longer side."""
    scale = CELL / max(photo.size)
    size = (max(round(photo.width * scale), 1), max(round(photo.height * scale), 1))
    small = photo.resize(size, Image.Resampling.BILINEAR)
    rows, columns = (
        (2 * np.arange(count) + 1) * side // (2 * count) for count, side in zip(size[::-1], ids.shape, strict=True)
    )
    shown = ids[rows][:, columns]  # h w
    ignored = shown == labels.ignore_index
    colors = np.array(labels.colors, np.uint8)[np.where(ignored, 0, shown)]  # h w 3
    stripes = np.add.outer(np.arange(size[1]), np.arange(size[0])) // HATCH % 2 * 255
    colors[ignored] = stripes[ignored, None]
    return small, Image.blend(small, Image.fromarray(colors), 0.6)


def _beside(pictures: Sequence[Image.Image], *, gap: int) -> Image.Image:
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def _title(text: str) -> Image.Image:
    font = ImageFont.load_default(16)
    page = Image.new("RGB", (round(font.getlength(text)) + 2 * GAP, TITLE), PAPER)
    ImageDraw.Draw(page).text((GAP, TITLE // 2), text, INK, font, anchor="lm")
    return page
