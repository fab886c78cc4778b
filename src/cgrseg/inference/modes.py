"""The ways to predict an image, see `Predictor`. Imports no torch, to keep `--help` fast."""

from __future__ import annotations

from typing import Literal

Mode = Literal["whole", "slide", "slide-cosine", "scales", "tta"]
