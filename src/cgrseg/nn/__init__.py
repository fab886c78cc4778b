"""The paper: CGRSeg and its parts."""

from cgrseg.description import VARIANTS, ModelSpec, find_spec

from .context import PyramidContextExtraction
from .model import CGRSeg, build
from .prototype import DynamicPrototypeGuidedHead
from .rcm import RectangularSelfCalibrationAttention, RectangularSelfCalibrationModule
from .reconstruction import SpatialFeatureReconstruction

RCA = RectangularSelfCalibrationAttention
RCM = RectangularSelfCalibrationModule

__all__ = [
    "RCA",
    "RCM",
    "VARIANTS",
    "CGRSeg",
    "DynamicPrototypeGuidedHead",
    "ModelSpec",
    "PyramidContextExtraction",
    "RectangularSelfCalibrationAttention",
    "RectangularSelfCalibrationModule",
    "SpatialFeatureReconstruction",
    "build",
    "find_spec",
]
