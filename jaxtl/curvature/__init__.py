"""Curvature of a loss: Hessian products, the spectrum seen through them, and measures of sharpness."""

from jaxtl.curvature.estimate import Estimate
from jaxtl.curvature.products import Matvec, hvp, hvp_over_batches
from jaxtl.curvature.sharpness import (
  adaptive_average_sharpness,
  adaptive_sam_sharpness,
  average_sharpness,
  fisher_rao_norm,
  relative_flatness,
  sam_sharpness,
)
from jaxtl.curvature.spectrum import Eigenpair, top_algebraic_eigenpair, top_eigenpair

__all__ = [
  "Eigenpair",
  "Estimate",
  "Matvec",
  "adaptive_average_sharpness",
  "adaptive_sam_sharpness",
  "average_sharpness",
  "fisher_rao_norm",
  "hvp",
  "hvp_over_batches",
  "relative_flatness",
  "sam_sharpness",
  "top_algebraic_eigenpair",
  "top_eigenpair",
]
