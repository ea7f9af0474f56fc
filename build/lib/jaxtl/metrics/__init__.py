"""Measures of a model over a data set, kept as sum and weight until the end."""

from jaxtl.metrics.classification import in_top
from jaxtl.metrics.means import Mean, compute, merge

__all__ = ["Mean", "compute", "in_top", "merge"]
