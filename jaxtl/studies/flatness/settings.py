"""The config of a flatness study."""

from __future__ import annotations

import dataclasses

from jaxtl.measure.lambda_max import Flatness
from jaxtl.measure.settings import BlockCurvature, Plane, Sharpness, Slice, Spectrum


@dataclasses.dataclass(frozen=True)
class FlatnessStudy:
  """The study: one checkpoint per arm. None skips a part.

  Attributes:
    start: the checkpoint, a run's folder or an imported weight.
    flatness: the images, and how exactly lambda_max is measured. Data without transforms use those of the
      checkpoint.
    spectrum: the largest eigenvalues, the trace and the density.
    layers: the curvature of each block alone.
    sharpness: how much the loss rises near the weights.
    slice: the loss along lines.
    plane: the loss over a plane.
    digest: the required digest of the weights, as in `weights` of a row; None accepts any.
  """

  start: str
  flatness: Flatness
  spectrum: Spectrum | None = dataclasses.field(default_factory=Spectrum)
  layers: BlockCurvature | None = dataclasses.field(default_factory=BlockCurvature)
  sharpness: Sharpness | None = dataclasses.field(default_factory=Sharpness)
  slice: Slice | None = dataclasses.field(default_factory=Slice)
  plane: Plane | None = dataclasses.field(default_factory=Plane)
  digest: str | None = None
