"""Curvature of a loss: products, the spectrum that they show, and sharpness, each with its error."""

from jaxtl.curvature.estimate import Estimate
from jaxtl.curvature.finite import check_params
from jaxtl.curvature.fisher import fisher_diagonal
from jaxtl.curvature.krylov import Basis, Tridiagonal, tridiagonalize
from jaxtl.curvature.products import (
  Matvec,
  empirical_fisher,
  empirical_fisher_over_batches,
  fisher,
  fisher_over_batches,
  ggn,
  ggn_over_batches,
  gradient_over_batches,
  hvp,
  hvp_over_batches,
  loss_over_batches,
  restrict,
)
from jaxtl.curvature.sharpness import (
  adaptive_average_sharpness,
  adaptive_sam_sharpness,
  average_sharpness,
  fisher_rao_norm,
  relative_flatness,
  sam_sharpness,
)
from jaxtl.curvature.spectrum import (
  Eigenpair,
  Extremes,
  extreme_eigenpairs,
  top_eigenpair,
  top_eigenpairs,
)
from jaxtl.curvature.stochastic import (
  Density,
  Diagonal,
  diagonal,
  frobenius,
  spectral_density,
  trace,
  trace_hutch_plus_plus,
)
from jaxtl.curvature.streaming import Batches

__all__ = [
  "Basis",
  "Batches",
  "Density",
  "Diagonal",
  "Eigenpair",
  "Estimate",
  "Extremes",
  "Matvec",
  "Tridiagonal",
  "adaptive_average_sharpness",
  "adaptive_sam_sharpness",
  "average_sharpness",
  "check_params",
  "diagonal",
  "empirical_fisher",
  "empirical_fisher_over_batches",
  "extreme_eigenpairs",
  "fisher",
  "fisher_diagonal",
  "fisher_over_batches",
  "fisher_rao_norm",
  "frobenius",
  "ggn",
  "ggn_over_batches",
  "gradient_over_batches",
  "hvp",
  "hvp_over_batches",
  "loss_over_batches",
  "relative_flatness",
  "restrict",
  "sam_sharpness",
  "spectral_density",
  "top_eigenpair",
  "top_eigenpairs",
  "trace",
  "trace_hutch_plus_plus",
  "tridiagonalize",
]
