"""Colours that differ as much as possible, for people of full colour vision and for colour-blind people.

Differences are distances in Oklab (Ottosson, 2020). Colour blindness is simulated as by Machado et al. (2009).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from cgrseg.labels import Color, LabelSpace

Array = np.ndarray[Any, np.dtype[Any]]
LIGHTNESS = 0.35, 0.92  # darker and lighter colours look alike over photos
EXCHANGED = 40  # up to so many colours are improved after they are chosen: it takes time
VISIONS = {  # linear RGB -> linear RGB as it is seen
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
TO_OKLAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def with_distinct_colors(label_space: LabelSpace) -> LabelSpace:
    """The classes in `distinct_colors`, each in the one most like its own colour; "background" keeps its colour."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    changed = [label for label in range(len(label_space)) if label != label_space.background]
    colors, own = list(label_space.colors), oklab(np.array(label_space.colors))[changed]
    chosen = distinct_colors(len(changed))
    costs = np.linalg.norm(own[:, None] - oklab(np.array(chosen).reshape(-1, 3))[None], axis=2)
    for label, place in zip(*linear_sum_assignment(costs**2), strict=True):  # no class gets a very different colour
        colors[changed[label]] = chosen[place]
    return replace(label_space, colors=tuple(colors))


@lru_cache(maxsize=16)
def distinct_colors(count: int) -> tuple[Color, ...]:
    """Colours whose smallest difference, for any vision of `VISIONS`, is as large as was found."""
    candidates = np.array(list(product(range(0, 256, 17), repeat=3)))
    lightness = oklab(candidates)[:, 0]
    candidates = candidates[(lightness >= LIGHTNESS[0]) & (lightness <= LIGHTNESS[1])]
    seen = np.stack([oklab(candidates, vision) for vision in VISIONS])  # visions N 3

    def distances(place: int) -> Array:
        smallest: Array = np.linalg.norm(seen - seen[:, place : place + 1], axis=2).min(0)
        return smallest

    places = [0] * min(count, 1)
    nearest = distances(0)
    while len(places) < count:  # the candidate that differs most from all chosen ones
        places.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distances(places[-1]))
    for number in [*range(count)] * 4 if count <= EXCHANGED else []:
        others = np.min([distances(place) for place in places[:number] + places[number + 1 :]] or [nearest], axis=0)
        places[number] = int(others.argmax())
    return tuple((int(red), int(green), int(blue)) for red, green, blue in candidates[places])


def oklab(colors: Array, vision: str = "full") -> Array:
    """sRGB 0 … 255 [N, 3] -> Oklab [N, 3]: lightness 0 … 1, green to red, blue to yellow."""
    encoded = colors / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    converted: Array = np.cbrt(np.clip(linear @ VISIONS[vision].T, 0, 1) @ TO_CONES.T) @ TO_OKLAB.T
    return converted
