"""Means and covariances by class, in float64, from feature moments: what most scores need of the features."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import scipy.linalg

from jaxtl.metrics.moments import Moments, class_sums, moments_of
from jaxtl.metrics.transferability.score import ScoreError, checked

# Eigenvalues below this share of the largest count as zero.
RELATIVE_CUT = 1e-10


@dataclasses.dataclass(frozen=True)
class ClassStatistics:
  """The moments of features about their mean, without the shift; divisors are N and n_c.

  The eigendecomposition is computed once, when a score first needs it.

  Attributes:
    classes: int [K] labels of the classes that have images.
    dropped: int labels of the classes without images; the scores leave them out.
    count: [K] images by class.
    mean: [D] over all images.
    deviations: [K, D] class mean - mean.
    variances: [K, D] variance of each feature within each class.
    covariance: [D, D] of all images.
    fourth: sum of |feature - mean|^4.
  """

  classes: np.ndarray
  dropped: np.ndarray
  count: np.ndarray
  mean: np.ndarray
  deviations: np.ndarray
  variances: np.ndarray
  covariance: np.ndarray
  fourth: float

  @property
  def num(self) -> float:
    return float(self.count.sum())

  @property
  def dim(self) -> int:
    return len(self.mean)

  @property
  def share(self) -> np.ndarray:
    """Class shares n_c / N, [K]."""
    return self.count / self.num

  @property
  def total_variance(self) -> float:
    """The trace of the covariance."""
    return float(np.trace(self.covariance))

  @property
  def constant(self) -> bool:
    """Whether the features are constant up to the rounding of float32, in which they are computed."""
    scale = float(np.sum(self.mean**2)) + self.total_variance
    return self.total_variance <= 1e-18 * scale

  @property
  def within(self) -> np.ndarray:
    """The pooled within-class covariance [D, D], divisor N."""
    weighted = self.deviations * np.sqrt(self.share)[:, None]
    return self.covariance - weighted.T @ weighted

  @functools.cached_property
  def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [D] of the covariance, increasing and at least 0, and eigenvectors [D, D] in columns."""
    values, vectors = scipy.linalg.eigh(self.covariance, driver="evd", check_finite=False)
    return np.maximum(values, 0), vectors


def class_statistics(moments: Moments) -> ClassStatistics:
  """Undoes the shift of moments, exactly, in float64.

  The fourth moment follows from |g - u|^4 = (|g|^2 - 2 u.g + |u|^2)^2 with u = mean - shift.

  Raises:
    ScoreError: fewer than two classes have images, or a moment is not finite.
  """
  shift, count, total, squares, second = (np.asarray(leaf, np.float64) for leaf in moments[:5])
  norm2_total = np.asarray(moments.norm2_total, np.float64)
  if not all(np.isfinite(leaf).all() for leaf in (total, squares, second, moments.norm4, norm2_total)):
    raise ScoreError("the features have a NaN, an infinity, or values whose fourth power is infinite")
  seen = count > 0
  if seen.sum() < 2:
    raise ScoreError(f"expected images of at least 2 classes, got {int(seen.sum())}")
  num = count.sum()
  u = total.sum(axis=0) / num
  means = total[seen] / count[seen, None]
  uu, traces = u @ u, float(np.trace(second))
  fourth = float(moments.norm4) - 4 * u @ norm2_total + 2 * uu * traces + 4 * u @ second @ u - 3 * num * uu**2
  return ClassStatistics(
    classes=np.flatnonzero(seen),
    dropped=np.flatnonzero(~seen),
    count=count[seen],
    mean=shift + u,
    deviations=means - u,
    variances=np.maximum(squares[seen] / count[seen, None] - means**2, 0),
    covariance=second / num - np.outer(u, u),
    fourth=max(float(fourth), 0.0),
  )


def statistics_of(
  features: np.ndarray, labels: np.ndarray, *, weights: np.ndarray | None = None
) -> ClassStatistics:
  """Computes the statistics of features [N, D] that are held on the host.

  Args:
    features: [N, D].
    labels: int [N].
    weights: [N] how often each image counts; None means once.

  Raises:
    ConfigError: shapes do not fit, or D exceeds `MOST_FEATURES`.
    ScoreError: a feature is not finite, or fewer than two classes have images.
  """
  given, classes, compacted = checked(features, labels)
  moments = moments_of(given, compacted, weights=weights, num_classes=len(classes))
  statistics = class_statistics(moments)
  return dataclasses.replace(statistics, classes=classes[statistics.classes])


def relabelled(statistics: ClassStatistics, features: np.ndarray, labels: np.ndarray) -> ClassStatistics:
  """Returns the statistics of the same features under other labels [N], such as permuted ones.

  The label-free parts, the eigendecomposition included, are shared with `statistics`.
  """
  given, classes, compacted = checked(features, labels)
  centred = given - statistics.mean
  count = np.bincount(compacted).astype(float)
  deviations, squares = (
    class_sums(rows, compacted, num_classes=len(classes)) / count[:, None] for rows in (centred, centred**2)
  )
  variances = np.maximum(squares - deviations**2, 0)
  other = dataclasses.replace(
    statistics, classes=classes, count=count, deviations=deviations, variances=variances
  )
  if "spectrum" in statistics.__dict__:
    other.__dict__["spectrum"] = statistics.spectrum
  return other


def principal_axes(statistics: ClassStatistics, *, num: int) -> np.ndarray:
  """Returns the directions of largest variance, [D, P] with P = min(num, D), largest first.

  The loading of largest size is positive in each direction, so that scores that depend on signs (PARC) do not
  depend on the machine.
  """
  axes = statistics.spectrum[1][:, ::-1][:, :num]
  largest = np.argmax(np.abs(axes), axis=0)
  return axes * np.sign(axes[largest, np.arange(axes.shape[1])])


def projected(
  statistics: ClassStatistics, features: np.ndarray, labels: np.ndarray, *, num: int = 64
) -> ClassStatistics:
  """Returns the statistics of the features on their first `num` principal axes.

  Features with at most `num` columns keep their own axes, and `statistics` is returned. A data set that is
  too large to be held is projected batch by batch with `principal_axes` and gets new moments.
  """
  if statistics.dim <= num:
    return statistics
  given, _, _ = checked(features, labels)
  return statistics_of((given - statistics.mean) @ principal_axes(statistics, num=num), labels)
