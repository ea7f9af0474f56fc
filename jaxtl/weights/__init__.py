"""A trained tree of weights as an object of study."""

from jaxtl.weights.indicators import Indicator, backward_transfer, gradient_similarity, slope_along
from jaxtl.weights.interpolate import interpolate, line, losses_along
from jaxtl.weights.objective import PaintObjective
from jaxtl.weights.perturb import along, between, filter_normalized, moved, orthogonalized
from jaxtl.weights.search import AlphaResult, brent, grid_search, optimize_alpha
from jaxtl.weights.surface import surface
from jaxtl.weights.surgery import POSITIONS, match, resize_positions

__all__ = [
  "POSITIONS",
  "AlphaResult",
  "Indicator",
  "PaintObjective",
  "along",
  "backward_transfer",
  "between",
  "brent",
  "filter_normalized",
  "gradient_similarity",
  "grid_search",
  "interpolate",
  "line",
  "losses_along",
  "match",
  "moved",
  "optimize_alpha",
  "orthogonalized",
  "resize_positions",
  "slope_along",
  "surface",
]
