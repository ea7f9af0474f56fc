"""Measures of a model over a data set, kept as sum and weight until the end."""

from jaxtl.metrics.calibration import Bins, confidence_bins, expected_calibration_error, fit_temperature
from jaxtl.metrics.classification import in_top
from jaxtl.metrics.confusion import balanced_accuracy, confusion_matrix
from jaxtl.metrics.geometry import effective_rank, scatter_traces
from jaxtl.metrics.means import Mean, compute, merge
from jaxtl.metrics.proportions import wilson_interval

__all__ = [
  "Bins",
  "Mean",
  "balanced_accuracy",
  "compute",
  "confidence_bins",
  "confusion_matrix",
  "effective_rank",
  "expected_calibration_error",
  "fit_temperature",
  "in_top",
  "merge",
  "scatter_traces",
  "wilson_interval",
]
