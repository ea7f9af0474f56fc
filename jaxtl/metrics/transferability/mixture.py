"""N-LEEP: LEEP with the clusters of a Gaussian mixture in place of source classes; it needs no head."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special

from jaxtl.errors import ConfigError
from jaxtl.metrics.transferability.predictions import leep
from jaxtl.metrics.transferability.score import Score, checked
from jaxtl.metrics.transferability.statistics import statistics_of

# Variances stay above this share of the mean variance.
VARIANCE_FLOOR = 1e-3


class Mixture(NamedTuple):
  """A Gaussian mixture with diagonal covariances: logarithms of shares [M], means and variances [M, P]."""

  log_share: np.ndarray
  mean: np.ndarray
  variance: np.ndarray

  def log_joint(self, x: np.ndarray) -> np.ndarray:
    """Computes log p(x, component), [N, P] -> [N, M]."""
    precision = 1 / self.variance
    squared = (
      x**2 @ precision.T - 2 * x @ (self.mean * precision).T + np.sum(self.mean**2 * precision, axis=1)
    )
    normaliser = np.sum(np.log(2 * np.pi * self.variance), axis=1)
    return self.log_share - (squared + normaliser) / 2


def n_leep(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  components: int | None = None,
  variance: float = 0.8,
  seeds: tuple[int, ...] = (0, 1, 2),
  max_steps: int = 100,
  tolerance: float = 1e-4,
) -> Score:
  """Computes LEEP with the posteriors of a Gaussian mixture on principal components.

  Li, Jia, Sang, Zhu, Green, Wang, Gong, "Ranking Neural Checkpoints", 2021, arXiv 2011.11200. Published runs
  fit full covariances without a seed and overfit if there are few images per component. Covariances are
  diagonal here, and the score is a mean over seeds.

  Args:
    features: [N, D].
    labels: int [N].
    components: of the mixture; None means min(5 K, N // 5).
    variance: share of the variance that the principal components keep.
    seeds: of the k-means++ starts.
    max_steps: most steps of expectation-maximisation.
    tolerance: stops when the mean log-likelihood changes by less, relatively.

  Returns:
    A value in (-inf, 0], larger is better, with its standard error over seeds. Details: "components", "axes",
    "no_signal" (constant features, which score -H(label)).

  Raises:
    ConfigError: an option is out of range, or shapes do not fit.
    ScoreError: a feature is not finite, or fewer than two classes have images.
  """
  if not 0 < variance <= 1 or not seeds or (components is not None and components < 1):
    raise ConfigError(
      f"expected a variance in (0, 1], at least one seed and one component, got {variance!r}, {seeds!r}, "
      f"{components!r}"
    )
  given, classes, labels = checked(features, labels)
  if components is None:
    components = max(min(5 * len(classes), len(labels) // 5), 1)
  components = min(components, len(labels))
  statistics = statistics_of(given, labels)
  if statistics.constant:
    value = leep(np.zeros((len(labels), 1)), labels).value
    return Score(value, details={"components": components, "axes": 0, "no_signal": True})
  values, vectors = (part[..., ::-1] for part in statistics.spectrum)
  axes = int(np.searchsorted(np.cumsum(values) / values.sum(), variance * (1 - 1e-12))) + 1
  x = (given - statistics.mean) @ vectors[:, :axes]
  scores = []
  for seed in seeds:
    mixture = fit_mixture(x, components=components, seed=seed, max_steps=max_steps, tolerance=tolerance)
    scores.append(leep(mixture.log_joint(x), labels).value)
  error = np.std(scores, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else np.nan
  details = {"components": components, "axes": axes, "no_signal": False}
  return Score(float(np.mean(scores)), float(error), details=details)


def fit_mixture(
  x: np.ndarray, *, components: int, seed: int = 0, max_steps: int = 100, tolerance: float = 1e-4
) -> Mixture:
  """Fits a Gaussian mixture with diagonal covariances by expectation-maximisation from a k-means++ start.

  Args:
    x: [N, P], not constant.
    components: M, at most N.
    seed: seed of the start.
    max_steps: most steps.
    tolerance: stops when the mean log-likelihood changes by less, relatively.
  """
  floor = VARIANCE_FLOOR * float(np.mean(np.var(x, axis=0)))
  posterior = np.eye(components)[_start(x, components, np.random.default_rng(seed))]
  before = -np.inf
  for _ in range(max_steps):
    mixture = _maximise(x, posterior, floor)
    joint = mixture.log_joint(x)
    evidence = scipy.special.logsumexp(joint, axis=1)
    likelihood = float(evidence.mean())
    if abs(likelihood - before) < tolerance * abs(likelihood):
      break
    before = likelihood
    posterior = np.exp(joint - evidence[:, None])
  return mixture


def _maximise(x: np.ndarray, posterior: np.ndarray, floor: float) -> Mixture:
  weight = np.maximum(posterior.sum(axis=0), 1e-10)  # a component may lose all images
  mean = posterior.T @ x / weight[:, None]
  variance = np.maximum(posterior.T @ x**2 / weight[:, None] - mean**2, floor)
  return Mixture(np.log(weight / weight.sum()), mean, variance)


def _start(x: np.ndarray, components: int, rng: np.random.Generator) -> np.ndarray:
  """The nearest of the k-means++ centres for each row, int [N].

  Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007: each centre is drawn with a
  probability proportional to the squared distance from the nearest centre so far.
  """
  nearest = np.zeros(len(x), int)
  distance = np.sum((x - x[rng.integers(len(x))]) ** 2, axis=1)
  for number in range(1, components):
    total = distance.sum()
    if total <= 0:  # fewer distinct rows than components
      break
    centre = x[np.searchsorted(np.cumsum(distance), rng.random() * total, side="right").clip(max=len(x) - 1)]
    to_centre = np.sum((x - centre) ** 2, axis=1)
    closer = to_centre < distance
    nearest[closer], distance[closer] = number, to_centre[closer]
  return nearest
