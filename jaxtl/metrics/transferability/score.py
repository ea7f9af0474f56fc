"""The value that every transferability score returns, and the inputs that all of them check."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxtl.errors import ConfigError, InputError


class ScoreError(InputError):
  """A score that cannot be computed from these data; the message is the reason to leave the score out."""


class Score(NamedTuple):
  """A transferability score.

  Attributes:
    value: the score; `float(score)` returns it.
    standard_error: over images, or over seeds where a docstring says so; NaN if there is none.
    per_example: [N] hits or terms whose mean is the score, for paired comparisons; None if there are none.
    details: by-products and flags, named in the docstring of the score.
  """

  value: float
  standard_error: float = float("nan")
  per_example: np.ndarray | None = None
  details: Mapping[str, Any] = MappingProxyType({})

  def __float__(self) -> float:
    return self.value


def mean_score(terms: np.ndarray, **details: Any) -> Score:
  """Returns the score that is the mean of terms [N], with its standard error over images."""
  terms = np.asarray(terms)
  error = float(np.std(terms) / np.sqrt(len(terms)))
  return Score(float(np.mean(terms)), error, terms, MappingProxyType(details))


def compact(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Numbers the classes that have images from 0.

  Args:
    labels: int [N].

  Returns:
    The labels of these classes [K], in increasing order, and the new labels [N].

  Raises:
    ConfigError: the labels are not integers [N].
    ScoreError: fewer than two classes have images.
  """
  labels = np.asarray(labels)
  if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
    raise ConfigError(
      f"labels have shape {labels.shape} and type {labels.dtype}; expected integers [N] (data come first, "
      "labels second)"
    )
  classes, compacted = np.unique(labels, return_inverse=True)
  if len(classes) < 2:
    raise ScoreError(f"expected images of at least 2 classes, got {len(classes)}")
  return classes, compacted


def checked(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns features [N, D] in float64, the classes [K] that have images, and labels [N] from 0 to K - 1.

  Raises:
    ConfigError: shapes do not fit.
    ScoreError: a feature is NaN or infinite, or fewer than two classes have images.
  """
  classes, labels = compact(labels)
  return finite(features, len(labels)), classes, labels


def finite(features: np.ndarray, num: int) -> np.ndarray:
  """Returns features [N, D] in float64.

  Raises:
    ConfigError: the shape is not [num, D] with D >= 1.
    ScoreError: a feature is NaN or infinite.
  """
  features = np.asarray(features)
  if features.ndim != 2 or len(features) != num or features.shape[1] < 1:
    raise ConfigError(f"features have shape {features.shape}; expected [{num}, D], one row per label")
  if not np.isfinite(features).all():
    broken = int(np.sum(~np.isfinite(features).all(axis=1)))
    raise ScoreError(f"the features of {broken} of {num} images have a NaN or an infinity")
  return features.astype(np.float64)
