"""The paper: CGRSeg and its parts, in torch and timm only."""

from .context import PyramidContextExtraction
from .model import VARIANTS, CGRSeg, ModelSpec, build
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
]
