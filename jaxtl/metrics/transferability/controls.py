"""Controls that a trustworthy score passes: permuted labels, and features that no network computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxtl.errors import ConfigError


class LabelNull(NamedTuple):
  """A score under permuted labels.

  Attributes:
    mean, sd: over permutations; sd has the divisor P - 1.
    z: (score - mean) / sd; NaN if sd is 0.
    values: [P].
  """

  mean: float
  sd: float
  z: float
  values: np.ndarray


def permuted_label_null(
  score: Callable[[np.ndarray], float],
  labels: np.ndarray,
  *,
  num_permutations: int = 20,
  seed: int = 0,
) -> LabelNull:
  """Computes a score under permutations of the labels, which carry no information on the features.

  Args:
    score: labels [N] -> score of the same features, for example
      `lambda y: float(h_score(relabelled(statistics, features, y)))`, which reuses the eigendecomposition.
    labels: int [N].
    num_permutations: P.
    seed: seed of the permutations.

  Raises:
    ConfigError: `num_permutations` is below 2.
    ScoreError: raised by the score.
  """
  if num_permutations < 2:
    raise ConfigError(f"expected at least 2 permutations, got {num_permutations!r} (for example 20)")
  rng = np.random.default_rng(seed)
  labels = np.asarray(labels)
  values = np.array([float(score(rng.permutation(labels))) for _ in range(num_permutations)])
  mean, sd = float(values.mean()), float(values.std(ddof=1))
  return LabelNull(mean, sd, (float(score(labels)) - mean) / sd if sd > 0 else float("nan"), values)


def pixel_features(images: np.ndarray, *, size: int = 8) -> np.ndarray:
  """Averages images over equal areas: [N, H, W, C] -> [N, size x size x C].

  Pixels that a border cuts count on both sides, by their area, so that H and W need not be multiples.
  """
  images = np.asarray(images, np.float64)
  rows, columns = (_area_weights(length, size) for length in images.shape[1:3])
  averaged = np.einsum("ah,nhwc,bw->nabc", rows, images, columns, optimize=True)
  return averaged.reshape(len(images), -1)


def color_features(images: np.ndarray) -> np.ndarray:
  """Computes the mean and the standard deviation of each channel: [N, H, W, C] -> [N, 2 C]."""
  images = np.asarray(images, np.float64)
  return np.concatenate([images.mean(axis=(1, 2)), images.std(axis=(1, 2))], axis=1)


def _area_weights(length: int, size: int) -> np.ndarray:
  """[size, length] shares of each pixel in the mean of each interval; rows sum to 1."""
  edges = np.arange(size + 1) * length / size
  pixels = np.arange(length)
  overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
  return np.maximum(overlap, 0) * size / length
