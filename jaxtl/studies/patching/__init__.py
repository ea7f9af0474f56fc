"""Patching fine-tuned networks by interpolation (PAINT), and merging several."""

from jaxtl.studies.patching.frozen_heads import linear_probe, own, zero_shot
from jaxtl.studies.patching.settings import Patching
from jaxtl.studies.patching.study import rows

__all__ = ["Patching", "linear_probe", "own", "rows", "zero_shot"]
