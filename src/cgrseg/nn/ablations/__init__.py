"""What Tables 4, 6, 7, 8 and 10 put in place of a part: one constructor a row, fields of `ModelSpec` by name."""

from .blocks import BLOCKS
from .heads import HEADS

__all__ = ["BLOCKS", "HEADS"]
