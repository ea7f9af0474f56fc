"""PARC: does the similarity of images in feature space follow that of their labels?"""

from __future__ import annotations

import numpy as np

from jaxtl.errors import ConfigError
from jaxtl.metrics.ranking import average_ranks
from jaxtl.metrics.transferability.folds import stratified_sample
from jaxtl.metrics.transferability.score import Score, ScoreError, checked
from jaxtl.metrics.transferability.statistics import principal_axes, statistics_of


def parc(
  features: np.ndarray, labels: np.ndarray, *, max_examples: int = 500, num_axes: int = 32, seed: int = 0
) -> Score:
  """Computes the rank correlation of feature distances with label distances, over pairs of images.

  Bolya, Mittapalli, Hoffman, "Scalable Diverse Model Selection for Accessible Transfer Learning", 2021, arXiv
  2111.06977 (pairwise annotation representation comparison). The distance is 1 - Pearson correlation of two
  rows of standardised principal components. The paper's factor 100 is left out.

  Args:
    features: [N, D]; with at most `num_axes` columns they are not rotated.
    labels: int [N].
    max_examples: images, chosen by `stratified_sample`.
    num_axes: principal axes.
    seed: seed of the choice.

  Returns:
    A value in [-1, 1], larger is better; 0 where all distances are equal. Details: "examples", the number of
    images used.

  Raises:
    ConfigError: an option is not positive, or shapes do not fit.
    ScoreError: a feature is not finite, fewer than two classes have images, or no pair shares a class.
  """
  if num_axes < 1:
    raise ConfigError(f"expected a positive num_axes, got {num_axes!r} (for example 32)")
  given, _, labels = checked(features, labels)
  chosen = stratified_sample(labels, max_examples=max_examples, seed=seed)
  given, labels = given[chosen], labels[chosen]
  above = np.triu_indices(len(labels), 1)
  differs = (labels[:, None] != labels)[above]
  if differs.all() or not differs.any():
    raise ScoreError(
      "expected images of at least 2 classes, one of them with 2 images, among those that are used"
    )
  statistics = statistics_of(given, labels)
  centred = given - statistics.mean
  if statistics.dim > num_axes:
    centred = centred @ principal_axes(statistics, num=num_axes)
  scale = centred.std(axis=0)
  # Columns that are constant up to rounding hold no information.
  used = scale > 1e-9 * max(scale.max(), float(np.linalg.norm(statistics.mean)), np.finfo(float).tiny)
  distances = 1 - _row_correlations(centred[:, used] / scale[used])[above]
  # Equal distances tie despite rounding.
  ranks = average_ranks(np.round(distances, 12))
  details = {"examples": len(labels)}
  if np.ptp(ranks) == 0:
    return Score(0.0, details=details)
  return Score(float(np.corrcoef(ranks, differs)[0, 1]), details=details)


def _row_correlations(rows: np.ndarray) -> np.ndarray:
  """Pearson correlations of all pairs of rows; a constant row has the correlation 0 with the others."""
  if not rows.shape[1]:
    return np.zeros((len(rows), len(rows)))
  rows = rows - rows.mean(axis=1, keepdims=True)
  length = np.linalg.norm(rows, axis=1, keepdims=True)
  rows = np.where(length > 1e-12, rows / np.maximum(length, 1e-12), 0)
  return rows @ rows.T
