"""Losses: functions from arrays to one value per example; the caller reduces."""

from jaxtl.losses.classification import (
  cosine_softmax,
  focal,
  grouped_cross_entropy,
  logit_norm,
  logit_penalty,
  mixed,
  multiclass_hinge,
  poly1,
  sigmoid_cross_entropy,
  softmax_cross_entropy,
  squared_hinge,
)
from jaxtl.losses.consistency import jensen_shannon
from jaxtl.losses.detection import (
  AnchorLosses,
  anchor_losses,
  assign,
  box_sum,
  focal_sum,
  huber,
  per_batch,
  per_image,
  smooth_l1,
)
from jaxtl.losses.segmentation import SegmentLosses, at_stride, segment_losses
from jaxtl.losses.smoothed_hinge import multiclass_smoothed_hinge

__all__ = [
  "AnchorLosses",
  "SegmentLosses",
  "anchor_losses",
  "assign",
  "at_stride",
  "box_sum",
  "cosine_softmax",
  "focal",
  "focal_sum",
  "grouped_cross_entropy",
  "huber",
  "jensen_shannon",
  "logit_norm",
  "logit_penalty",
  "mixed",
  "multiclass_hinge",
  "multiclass_smoothed_hinge",
  "per_batch",
  "per_image",
  "poly1",
  "segment_losses",
  "sigmoid_cross_entropy",
  "smooth_l1",
  "softmax_cross_entropy",
  "squared_hinge",
]
