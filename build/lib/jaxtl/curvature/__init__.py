"""Curvature of a loss: Hessian products, and the spectrum seen through them."""

from jaxtl.curvature.products import Matvec, hvp, hvp_over_batches
from jaxtl.curvature.spectrum import Eigenpair, top_algebraic_eigenpair, top_eigenpair

__all__ = [
  "Eigenpair",
  "Matvec",
  "hvp",
  "hvp_over_batches",
  "top_algebraic_eigenpair",
  "top_eigenpair",
]
