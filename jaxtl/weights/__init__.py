"""A trained tree of weights as an object of study."""

from jaxtl.weights.coordinates import Coordinates, coordinate_search
from jaxtl.weights.descent import Descent, descend
from jaxtl.weights.indicators import Indicator, backward_transfer, gradient_similarity, slope_along
from jaxtl.weights.interpolate import interpolate, line, losses_along
from jaxtl.weights.layer_choice import Choice, Finding, choose
from jaxtl.weights.layer_groups import Group, layer_groups
from jaxtl.weights.merge import (
  GreedySoup,
  analogy,
  dare,
  fisher_average,
  greedy_soup,
  task_arithmetic,
  task_vector,
  ties,
  uniform_soup,
  wise_ft,
)
from jaxtl.weights.objective import PaintObjective
from jaxtl.weights.perturb import along, between, filter_normalized, moved, orthogonalized
from jaxtl.weights.search import AlphaResult, brent, grid_search, optimize_alpha
from jaxtl.weights.surface import surface
from jaxtl.weights.surgery import POSITIONS, match, resize_positions

__all__ = [
  "POSITIONS",
  "AlphaResult",
  "Choice",
  "Coordinates",
  "Descent",
  "Finding",
  "GreedySoup",
  "Group",
  "Indicator",
  "PaintObjective",
  "along",
  "analogy",
  "backward_transfer",
  "between",
  "brent",
  "choose",
  "coordinate_search",
  "dare",
  "descend",
  "filter_normalized",
  "fisher_average",
  "gradient_similarity",
  "greedy_soup",
  "grid_search",
  "interpolate",
  "layer_groups",
  "line",
  "losses_along",
  "match",
  "moved",
  "optimize_alpha",
  "orthogonalized",
  "resize_positions",
  "slope_along",
  "surface",
  "task_arithmetic",
  "task_vector",
  "ties",
  "uniform_soup",
  "wise_ft",
]
