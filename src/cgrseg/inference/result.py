"""`Segmentation`: the label map of an image, and on request shares, pictures, cut-outs and polygons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgrseg.images import coco, cutout, geojson, render
from cgrseg.images.files import save_image
from cgrseg.images.polygons import Polygon, find_polygons
from cgrseg.labels import LabelSpace

from . import pictures
from .predictor import Prediction

Classes = str | int | Sequence[str | int]  # names or ids, or one of them
RUN_LENGTHS = 3  # zlib's Z_RLE: label maps in half the time of the default, at almost the same size


@dataclass(eq=False)
class Segmentation:
    """The segmented image.

    Args:
        labels: class ids [H, W] at the image's own (upright) size; uint8 up to 256 classes, otherwise uint16. With a
            threshold, unknown pixels have the `ignore_index` of the label space.
        label_space: names and colours of the classes.
        photo: uint8 RGB [H, W, 3], of several bands the first three; `overlay` draws on it.
        prediction: for `confidence`; None after `release`.
    """

    labels: np.ndarray[Any, np.dtype[Any]]
    label_space: LabelSpace = field(repr=False)
    photo: np.ndarray[Any, np.dtype[np.uint8]] = field(repr=False)
    prediction: Prediction | None = field(repr=False, default=None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all classes, by class id."""
        return self.label_space.names

    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 [K]: pixels per class; unknown pixels are not counted."""
        counts = np.zeros(max(len(self.names), self.label_space.ignore_index + 1), np.int64)
        for rows in np.array_split(self.labels, max(self.labels.size >> 20, 1)):  # bincount copies to int64
            counts += np.bincount(rows.ravel(), minlength=len(counts))
        return counts[: len(self.names)]

    def areas(self) -> dict[str, float]:
        """Name -> share of the pixels for the classes in this image, and "unknown", the largest first; sum 1."""
        areas: dict[str, float] = {}
        for name, _, share in self.legend():
            areas[name] = areas.get(name, 0.0) + share
        return areas

    def confidence(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [H, W], 0 … 1: the probability (softmax) of the winning class, computed when called.

        Raises:
            ValueError: `release` was called before.
        """
        if self.prediction is None:
            raise ValueError("the logits of this image were released: call confidence() before release()")
        return self.prediction.confidence()

    def with_threshold(self, threshold: float) -> Segmentation:
        """The same with pixels "unknown" whose confidence is below the threshold.

        They get the `ignore_index` of the label space, so a saved mask can be used for training: they are ignored.
        They belong to no class in shares, pictures, polygons and cut-outs.

        Args:
            threshold: from 0 (every pixel has a class) to 1.

        Raises:
            ValueError: another threshold, or `release` was called before.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}: use a number from 0 to 1")
        if threshold == 0:
            return self
        unknown = self.label_space.ignore_index
        labels = self.labels if unknown < 256 else self.labels.astype(np.uint16)
        labels = np.where(self.confidence() < threshold, labels.dtype.type(unknown), labels)
        return replace(self, labels=labels)

    def polygons(self, classes: Classes | None = None, *, tolerance: float = 1.0) -> list[Polygon]:
        """The regions of the label map as polygons with holes, by class and then from top to bottom.

        A region is a set of pixels that touch along their sides. Coordinates are (x, y) in pixel corners, x to the
        right and y down; see `Polygon`.

        Args:
            classes: names or ids; by default all.
            tolerance: how many pixels a boundary may move so that there are fewer corners. 0 gives polygons that cover
                exactly the pixels. Neighbours keep their common borders.

        Raises:
            ValueError: an unknown class, or a negative tolerance.
        """
        return find_polygons(self.labels, self._ids(classes), tolerance=tolerance)

    def to_geojson(
        self, classes: Classes | None = None, *, tolerance: float = 1.0, transform: Sequence[float] | None = None
    ) -> dict[str, Any]:
        """The polygons as a GeoJSON FeatureCollection: each has its class, class_id, number of pixels and color.

        Args:
            classes: names or ids; by default all.
            tolerance: as in `polygons`.
            transform: rasterio's `dataset.transform` (or its six numbers) gives coordinates on the map; without it
                they are pixel corners, x to the right and y down.
        """
        polygons = self.polygons(classes, tolerance=tolerance)
        return geojson.geojson(polygons, self.label_space, transform=transform)

    def to_coco(
        self, classes: Classes | None = None, *, tolerance: float = 1.0, file_name: str = "", image_id: int = 1
    ) -> dict[str, Any]:
        """The polygons as a COCO dataset of one image, with one annotation per region.

        Coordinates are pixel corners, as pycocotools reads them; "area" is the number of pixels. Category ids are class
        ids, from 0. Holes are joined to the outer boundary by cuts without width, since COCO's polygons have none.

        Args:
            classes: names or ids; by default all.
            tolerance: as in `polygons`.
            file_name: of the image.
            image_id: of the image.
        """
        height, width = self.labels.shape
        found = coco.coco_annotations(self.polygons(classes, tolerance=tolerance))
        return {
            "info": coco.INFO,
            "images": [{"id": image_id, "file_name": file_name, "width": width, "height": height}],
            "annotations": [{"id": number, "image_id": image_id, **each} for number, each in enumerate(found, 1)],
            "categories": coco.coco_categories(self.label_space),
        }

    def cutout(self, classes: Classes | None = None, *, soft: bool = True, crop: bool = False) -> Image.Image:
        """The pixels of some classes on a transparent background, RGBA.

        Args:
            classes: names or ids; by default all but "background".
            soft: the alpha of the edge follows the probabilities, within a few pixels; otherwise it is 0 or 255.
            crop: cut off the transparent borders; otherwise the picture has the size of the image.

        Raises:
            ValueError: an unknown class, no classes where none is called "background", or `soft` after `release`.
        """
        chosen = cutout.cutout_classes(self.label_space, classes)
        inside = np.isin(self.labels, chosen)
        if soft and self.prediction is None:
            raise ValueError("the logits of this image were released: call cutout() before release(), or soft=False")
        if soft and self.prediction is not None:
            width = min(max(self.prediction.spacing / 2, 1), 16)
            known = self.labels != self.label_space.ignore_index
            picture = cutout.cutout(self.photo, inside, self.prediction.membership(chosen) * known, width=width)
        else:
            picture = cutout.cutout(self.photo, inside)
        return picture.crop(picture.getchannel("A").getbbox()) if crop else picture

    def _ids(self, classes: Classes | None) -> list[int]:
        return list(range(len(self.names))) if classes is None else self.label_space.find(classes)

    def overlay(self, alpha: float = 0.5, legend: bool = True, *, names: bool = True) -> Image.Image:
        """The image with the colours of its classes drawn over it, RGB. "background" is not coloured.

        Args:
            alpha: from 0 (only the image) to 1 (only the colours).
            legend: add a panel with names, shares and colours as they look in the picture; without it the picture has
                the image's size.
            names: write names on large regions, and draw a line around each region.

        Raises:
            ValueError: alpha is not from 0 to 1.
        """
        return pictures.overlay(self, alpha, legend=legend, names=names)

    def outline(self, legend: bool = True, *, names: bool = True, width: int | None = None) -> Image.Image:
        """The image with a line around each region in the colour of its class, RGB.

        Args:
            legend: as for `overlay`.
            names: as for `overlay`.
            width: of the lines in pixels; by default it follows the size of the image.
        """
        return pictures.outline(self, legend=legend, names=names, width=width)

    def legend(self) -> list[render.Entry]:
        """(name, colour, share) of the classes in this image, and of "unknown" pixels, the largest first."""
        return [(name, color, share) for _, name, color, share in pictures.entries(self)]

    def save(self, path: str | Path) -> None:
        """Write the label map as PNG, atomically: class ids with the class colours as palette.

        With more than 256 classes, which a palette cannot hold, it is a 16-bit grey PNG of the ids.

        Raises:
            ValueError: the path does not end in ".png".
            OSError: it cannot be written.
        """
        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"{path}: a label map is saved as .png, which keeps every id: choose such a name")
        save_image(render.mask_picture(self.labels, self.label_space), path, compress_type=RUN_LENGTHS)

    def release(self) -> None:
        """Free the logits; everything except `confidence`, thresholds and soft cut-outs still works."""
        self.prediction = None
