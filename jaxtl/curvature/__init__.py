"""Curvature of a loss: products, and the spectrum seen through them, each number with its error."""

from jaxtl.curvature.estimate import Estimate
from jaxtl.curvature.krylov import Basis, Tridiagonal, tridiagonalize
from jaxtl.curvature.products import (
  Batches,
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
  restrict,
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
  "diagonal",
  "empirical_fisher",
  "empirical_fisher_over_batches",
  "extreme_eigenpairs",
  "fisher",
  "fisher_over_batches",
  "frobenius",
  "ggn",
  "ggn_over_batches",
  "gradient_over_batches",
  "hvp",
  "hvp_over_batches",
  "restrict",
  "spectral_density",
  "top_eigenpair",
  "top_eigenpairs",
  "trace",
  "trace_hutch_plus_plus",
  "tridiagonalize",
]
