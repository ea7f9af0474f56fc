"""Measures of a model over a data set, kept as sum and weight until the end."""

from jaxtl.metrics.calibration import Bins, confidence_bins, expected_calibration_error, fit_temperature
from jaxtl.metrics.classification import in_top
from jaxtl.metrics.confusion import balanced_accuracy, confusion_matrix
from jaxtl.metrics.detection import Detections, Kept, detections, nms, soft_nms
from jaxtl.metrics.means import Mean, compute, merge
from jaxtl.metrics.segmentation import (
  class_iou,
  class_means,
  class_overlaps,
  mean_iou,
  pixel_accuracy,
  pixel_confusion,
  segments_of,
)

__all__ = [
  "Bins",
  "Detections",
  "Kept",
  "Mean",
  "balanced_accuracy",
  "class_iou",
  "class_means",
  "class_overlaps",
  "compute",
  "confidence_bins",
  "confusion_matrix",
  "detections",
  "expected_calibration_error",
  "fit_temperature",
  "in_top",
  "mean_iou",
  "merge",
  "nms",
  "pixel_accuracy",
  "pixel_confusion",
  "segments_of",
  "soft_nms",
]
