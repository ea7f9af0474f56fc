"""Ridge regression on one-hot labels, judged on stratified folds: an accuracy, at the price of moments.

Leave-one-out also has a closed form, but scores 0 instead of 1 / K under permuted balanced labels: the
left-out image lowers the share of its own class. Stratified folds do not have that bias.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg

from jaxtl.errors import ConfigError
from jaxtl.metrics.moments import Moments, class_sums, moments_of, over_folds
from jaxtl.metrics.transferability.folds import stratified_folds, used_folds
from jaxtl.metrics.transferability.score import Score, checked, mean_score
from jaxtl.metrics.transferability.statistics import ClassStatistics, statistics_of

# Relative to the mean eigenvalue of the scatter matrix.
PENALTIES = tuple(10.0**power for power in range(-4, 3))
# Below, the equations are too ill-conditioned for float64.
LEAST_PENALTY = 1e-8
# Balanced accuracy is reported if the largest class has this many times the images of the smallest.
UNBALANCED = 3.0


class RidgeFolds(NamedTuple):
  """Ridge regressions that each leave one fold out.

  Attributes:
    penalty: the penalty of least squared error, summed over all folds.
    kernel, bias: [V, D, K] and [V, K] of that penalty; scores = features @ kernel + bias. The bias of a class
      without training images is -inf.
    squared_error: [P] sums over the left-out images, by penalty.
  """

  penalty: float
  kernel: np.ndarray
  bias: np.ndarray
  squared_error: np.ndarray


def ridge(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  num_folds: int = 5,
  seed: int = 0,
  penalties: tuple[float, ...] = PENALTIES,
  statistics: ClassStatistics | None = None,
) -> Score:
  """Computes the accuracy of ridge regression on stratified folds that it was not fitted to.

  The penalty is the one of least squared error on the left-out images. For features that are not held, use
  `fit_ridge_folds` on moments by fold and `ridge_hits` batch by batch.

  Args:
    features: [N, D].
    labels: int [N].
    num_folds, seed: of `stratified_folds`.
    penalties: to try, relative to the mean eigenvalue of the training scatter.
    statistics: of the same features and labels; saves an eigendecomposition that another score has used.

  Returns:
    The accuracy with its standard error over images; 1 / K is chance for balanced classes. Details:
    "penalty", "squared_error" per image, "balanced_accuracy" (None unless max n_c / min n_c > 3).

  Raises:
    ConfigError: shapes do not fit, or an option is out of range.
    ScoreError: a feature is not finite, fewer than two classes have images, or none has two.
  """
  _check_penalties(penalties)
  given, classes, labels = checked(features, labels)
  if statistics is not None and (statistics.num, statistics.dim) != given.shape:
    raise ConfigError(
      f"the statistics are of {statistics.num:g} images and {statistics.dim} features, but the features have "
      f"shape {given.shape}; expected statistics of the same features"
    )
  folds = stratified_folds(labels, num_folds=num_folds, seed=seed)
  used = used_folds(folds)
  if np.bincount(folds).max() < given.shape[1]:
    exact = functools.partial(statistics_of, given, labels)
    try:
      found = _by_images(given, labels, folds, used, statistics or exact(), penalties)
    except np.linalg.LinAlgError:  # given statistics from sums in float32
      found = _by_images(given, labels, folds, used, exact(), penalties)
    penalty, error, hits = found
  else:
    fits = fit_ridge_folds(moments_of(given, labels, folds=folds), penalties=penalties)
    penalty, error = fits.penalty, float(fits.squared_error.min())
    hits = ridge_hits(fits, given, labels, folds)
  counts = np.bincount(labels)
  balanced = float(np.mean(np.bincount(labels, weights=hits, minlength=len(classes)) / counts))
  return mean_score(
    hits,
    penalty=penalty,
    squared_error=error / len(labels),
    balanced_accuracy=balanced if counts.max() > UNBALANCED * counts.min() else None,
  )


def ridge_head(statistics: ClassStatistics, *, penalty: float) -> dict[str, np.ndarray]:
  """Fits ridge regression to all images.

  Args:
    statistics: of the features.
    penalty: relative to the mean eigenvalue of the scatter, for example `ridge(...).details["penalty"]`.

  Returns:
    {"kernel": [D, K], "bias": [K]}, a head of the K classes in `statistics.classes`.
  """
  _check_penalties((penalty,))
  scatter, sums = (
    statistics.num * statistics.covariance,
    (statistics.count[:, None] * statistics.deviations).T,
  )
  kernel = next(_solutions(scatter, sums, (penalty,)))
  return {"kernel": kernel, "bias": statistics.share - statistics.mean @ kernel}


def fit_ridge_folds(moments: Moments, *, penalties: tuple[float, ...] = PENALTIES) -> RidgeFolds:
  """Fits ridge regression to all folds but one, for each fold, and chooses the penalty, from moments alone.

  The squared error on a left-out fold is a quadratic form of the moments of that fold.

  Args:
    moments: by fold, with a leading axis [V].
    penalties: to try.

  Raises:
    ConfigError: the moments have no folds, or a penalty is below 1e-8.
    ScoreError: fewer than two folds have images.
  """
  _check_penalties(penalties)
  if np.ndim(moments.count) != 2:
    raise ConfigError("expected moments by fold; give folds= to moments_of, or fold_masks to batch_moments")
  moments = Moments(*(np.asarray(leaf, np.float64) for leaf in moments))
  by_fold = np.sum(moments.count, axis=1)
  used = used_folds(np.repeat(np.arange(len(by_fold)), by_fold > 0))
  errors = np.zeros(len(penalties))
  for fold in used:
    train, left_out = over_folds(moments, without=int(fold)), _fold_of(moments, int(fold))
    mean, share, scatter, sums = _centred(train)
    for number, kernel in enumerate(_solutions(scatter, sums, penalties)):
      errors[number] += _squared_error(kernel, mean, share, left_out)
  penalty = float(penalties[int(errors.argmin())])
  # Solving once more is cheaper than keeping the kernels of all penalties.
  num_folds, num_classes = moments.count.shape
  kernels = np.zeros((num_folds, len(moments.shift), num_classes))
  biases = np.full((num_folds, num_classes), -np.inf)
  for fold in used:
    train = over_folds(moments, without=int(fold))
    mean, share, scatter, sums = _centred(train)
    kernels[fold] = next(_solutions(scatter, sums, (penalty,)))
    bias = share - (moments.shift + mean) @ kernels[fold]
    biases[fold] = np.where(train.count > 0, bias, -np.inf)
  return RidgeFolds(penalty, kernels, biases, errors)


def _fold_of(moments: Moments, fold: int) -> Moments:
  return Moments(moments.shift, *(leaf[fold] for leaf in moments[1:]))


def _centred(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns the mean [D], class shares [K], scatter [D, D], and sums of (g - mean) by class, [D, K]."""
  num = moments.count.sum()
  mean = moments.total.sum(axis=0) / num
  scatter = moments.second - num * np.outer(mean, mean)
  return mean, moments.count / num, scatter, moments.total.T - np.outer(mean, moments.count)


def ridge_hits(fits: RidgeFolds, features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
  """Returns whether each image is classified correctly by the regression that left its fold out, bool [B].

  Args:
    fits: of all folds.
    features: [B, D] of a batch.
    labels: int [B], numbered as in the moments.
    folds: int [B].
  """
  hits = np.zeros(len(labels), bool)
  for fold in np.unique(folds):
    rows = folds == fold
    scores = features[rows] @ fits.kernel[fold] + fits.bias[fold]
    hits[rows] = scores.argmax(axis=1) == labels[rows]
  return hits


def _check_penalties(penalties: tuple[float, ...]) -> None:
  if not penalties or not all(penalty >= LEAST_PENALTY for penalty in penalties):
    raise ConfigError(
      f"expected penalties of at least {LEAST_PENALTY:g}, got {penalties!r} (for example (0.1, 1.0))"
    )


def _solutions(scatter: np.ndarray, sums: np.ndarray, penalties: tuple[float, ...]) -> Iterator[np.ndarray]:
  """Yields (scatter + penalty x mean eigenvalue x I)^-1 sums for each penalty; zeros without any variance."""
  mean_eigenvalue = np.trace(scatter) / len(scatter)
  for penalty in penalties:
    if mean_eigenvalue <= 0:
      yield np.zeros_like(sums)
      continue
    matrix = scatter.copy()
    matrix[np.diag_indices_from(matrix)] += penalty * mean_eigenvalue
    try:
      factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
      yield scipy.linalg.cho_solve(factor, sums, check_finite=False)
    except np.linalg.LinAlgError:  # sums in float32 may leave a negative eigenvalue
      values, vectors = scipy.linalg.eigh(scatter, driver="evd", check_finite=False)
      inverse = 1 / (np.maximum(values, 0) + penalty * mean_eigenvalue)
      yield vectors @ (inverse[:, None] * (vectors.T @ sums))


def _squared_error(kernel: np.ndarray, mean: np.ndarray, share: np.ndarray, left_out: Moments) -> float:
  """The sum over left-out images of |share + (g - mean) @ kernel - onehot|^2."""
  num = left_out.count.sum()
  total = left_out.total.sum(axis=0)
  second = left_out.second @ kernel - np.outer(total, mean @ kernel)
  second += np.outer(mean, (num * mean - total) @ kernel)
  sums = left_out.total.T - np.outer(mean, left_out.count)
  constant = num * (share @ share) + num - 2 * share @ left_out.count
  linear = 2 * share @ ((total - num * mean) @ kernel) - 2 * np.sum(kernel * sums)
  return float(np.sum(kernel * second) + linear + constant)


def _by_images(
  features: np.ndarray,
  labels: np.ndarray,
  folds: np.ndarray,
  used: np.ndarray,
  statistics: ClassStatistics,
  penalties: tuple[float, ...],
) -> tuple[float, float, np.ndarray]:
  """The same as `fit_ridge_folds` and `ridge_hits` if folds are smaller than D; returns penalty, error, hits.

  One eigendecomposition of all features serves every fold and penalty: leaving out a fold of n images is a
  change of rank n + 1, which Woodbury's identity turns into a system of n + 1 equations.
  """
  values, vectors = statistics.spectrum
  rotated = (features - statistics.mean) @ vectors
  num_classes = int(labels.max()) + 1
  totals = class_sums(rotated, labels, num_classes=num_classes)
  errors = np.zeros(len(penalties))
  hits = np.zeros((len(penalties), len(labels)), bool)
  for fold in used:
    rows = folds == fold
    onehot = np.eye(num_classes)[labels[rows]]
    share = np.bincount(labels[~rows], minlength=num_classes) / np.sum(~rows)
    others = totals - class_sums(rotated[rows], labels[rows], num_classes=num_classes)
    predictions = _left_out(rotated[rows], others, share, len(labels), len(labels) * values, penalties)
    for number, predicted in enumerate(predictions):
      errors[number] += np.sum((share + predicted - onehot) ** 2)
      scores = np.where(share > 0, share + predicted, -np.inf)
      hits[number, rows] = scores.argmax(axis=1) == labels[rows]
  best = int(errors.argmin())
  return float(penalties[best]), float(errors[best]), hits[best]


def _left_out(
  fold: np.ndarray,
  others: np.ndarray,
  share: np.ndarray,
  num_all: int,
  values: np.ndarray,
  penalties: tuple[float, ...],
) -> Iterator[np.ndarray]:
  """Yields (features of the fold - training mean) @ kernel for each penalty.

  Args:
    fold: [n, D] centred features of the fold, in the eigenvectors of the scatter of all images.
    others: [K, D] sums over the other images by class.
    share: [K] class shares of the other images.
    num_all: N.
    values: [D] eigenvalues of the scatter.
    penalties: to try.
  """
  size, num = len(fold), num_all - len(fold)
  shift = fold.mean(axis=0)
  # Scatter of the others about their mean = scatter of all - U'U.
  u = np.vstack([fold, (size / np.sqrt(num)) * shift])
  sums = others.T + size * np.outer(shift, share)
  mean_eigenvalue = (values.sum() - np.sum(u**2)) / len(values)
  if mean_eigenvalue < -1e-9 * values[-1]:
    raise np.linalg.LinAlgError("the eigenvalues are not of these features")
  for penalty in penalties:
    if mean_eigenvalue <= 1e-15 * values[-1]:
      yield np.zeros((size, len(share)))
      continue
    inverse = 1 / (values + penalty * mean_eigenvalue)
    half = u * np.sqrt(inverse)
    system = -(half @ half.T)  # NumPy computes one triangle
    system[np.diag_indices_from(system)] += 1
    right = half @ (np.sqrt(inverse)[:, None] * sums)
    factor = scipy.linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    solved = scipy.linalg.cho_solve(factor, right, check_finite=False)
    yield solved[:-1] + solved[-1] / np.sqrt(num)
