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
from jaxtl.losses.smoothed_hinge import multiclass_smoothed_hinge

__all__ = [
  "cosine_softmax",
  "focal",
  "grouped_cross_entropy",
  "jensen_shannon",
  "logit_norm",
  "logit_penalty",
  "mixed",
  "multiclass_hinge",
  "multiclass_smoothed_hinge",
  "poly1",
  "sigmoid_cross_entropy",
  "softmax_cross_entropy",
  "squared_hinge",
]
