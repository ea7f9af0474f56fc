"""Stratified parts of a data set: samples, folds, and cross-validation of any classifier."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.special

from jaxtl.errors import ConfigError
from jaxtl.metrics.transferability.score import Score, ScoreError, checked, mean_score

# (features [M, D], labels [M] from 0 to K - 1, K) -> (features [B, D] -> logits [B, K])
Fit = Callable[[np.ndarray, np.ndarray, int], Callable[[np.ndarray], np.ndarray]]


def stratified_sample(labels: np.ndarray, *, max_examples: int = 5000, seed: int = 0) -> np.ndarray:
  """Chooses at most `max_examples` images whose classes have the shares of the data set.

  The counts are those of the largest remainder; among equal remainders, the smaller label wins.

  Args:
    labels: int [N].
    max_examples: the most images to choose.
    seed: seed of the choice within a class.

  Returns:
    int [min(N, max_examples)] increasing indices.

  Raises:
    ConfigError: `max_examples` is not positive.
  """
  if max_examples < 1:
    raise ConfigError(f"expected a positive max_examples, got {max_examples!r} (for example 5000)")
  labels = np.asarray(labels)
  if len(labels) <= max_examples:
    return np.arange(len(labels))
  _, compacted, counts = np.unique(labels, return_inverse=True, return_counts=True)
  # Integers, so that equal remainders are equal: n_c max / N = quota + remainder / N.
  quota, remainder = np.divmod(counts * max_examples, len(labels))
  quota[np.argsort(-remainder, kind="stable")[: max_examples - quota.sum()]] += 1
  return np.flatnonzero(_rank_within_class(compacted, seed) < quota[compacted])


def stratified_folds(labels: np.ndarray, *, num_folds: int = 5, seed: int = 0) -> np.ndarray:
  """Assigns images to folds so that the sizes of a class in two folds differ by at most one.

  Args:
    labels: int [N].
    num_folds: V.
    seed: seed of the order within a class.

  Returns:
    int [N] fold numbers from 0 to V - 1. A fold is empty if every class has fewer than V images.

  Raises:
    ConfigError: `num_folds` is below 2.
  """
  if num_folds < 2:
    raise ConfigError(f"expected at least 2 folds, got {num_folds!r} (for example 5)")
  return _rank_within_class(np.unique(labels, return_inverse=True)[1], seed) % num_folds


def _rank_within_class(labels: np.ndarray, seed: int) -> np.ndarray:
  """The position [N] of each image in a random order of its class."""
  order = np.random.default_rng(seed).permutation(len(labels))
  by_class = order[np.argsort(labels[order], kind="stable")]
  counts = np.bincount(labels)
  ranks = np.empty(len(labels), int)
  ranks[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
  return ranks


def used_folds(folds: np.ndarray) -> np.ndarray:
  """Returns the numbers of the folds that have images.

  Raises:
    ScoreError: fewer than two have, so that leaving one out leaves nothing.
  """
  numbers = np.unique(folds)
  if len(numbers) < 2:
    raise ScoreError("expected at least one class with 2 images, so that a part can be left out")
  return numbers


def cross_validate(
  features: np.ndarray, labels: np.ndarray, *, fit: Fit, num_folds: int = 5, seed: int = 0
) -> Score:
  """Computes the accuracy of a classifier on stratified folds that it was not fitted to.

  With `optim.choose_probe` this is the probe that cheaper scores stand in for.

  Args:
    features: [N, D].
    labels: int [N].
    fit: (features, labels, K) -> predict, with predict(features) -> logits [B, K].
    num_folds, seed: of `stratified_folds`.

  Returns:
    The accuracy with its standard error over images. Details: "cross_entropy" on the left-out images.

  Raises:
    ConfigError: shapes do not fit, or `num_folds` is below 2.
    ScoreError: a feature is not finite, fewer than two classes have images, or none has two.
  """
  _, classes, compacted = checked(features, labels)
  features = np.asarray(features)
  folds = stratified_folds(compacted, num_folds=num_folds, seed=seed)
  logits = np.zeros((len(compacted), len(classes)))
  for fold in used_folds(folds):
    left_out = folds == fold
    predict = fit(features[~left_out], compacted[~left_out], len(classes))
    logits[left_out] = np.asarray(predict(features[left_out]))
  losses = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(logits)), compacted]
  return mean_score(logits.argmax(axis=1) == compacted, cross_entropy=float(losses.mean()))
