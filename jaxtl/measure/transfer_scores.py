"""Every transferability score of one weight on one target, from what one pass over the images observed.

A score that cannot be computed is left out with its reason, and the others are computed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtl.errors import ConfigError
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.metrics import transferability as t
from jaxtl.types import Row

# Resamples of a score that is recomputed for each of them.
MOMENT_DRAWS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
  """What a network says about N images of a target.

  Attributes:
    features: float32 [N, D] pooled features, in evaluation mode.
    labels: int [N] classes of the target.
    logits: float32 [N, Z] of the network's own head; None if it has none.
    seed: of folds and samples.
    counts: [N] how often each image counts; None means once. Only scores from moments know it.
    whole: of what this is a resample, whose axes it keeps; None for what was observed itself.
  """

  features: np.ndarray
  labels: np.ndarray
  logits: np.ndarray | None = None
  seed: int = 0
  counts: np.ndarray | None = None
  whole: Observed | None = None

  @functools.cached_property
  def statistics(self) -> t.ClassStatistics:
    """Means and covariances by class, which most scores share."""
    return t.statistics_of(self.features, self.labels, weights=self.counts)

  @functools.cached_property
  def on_axes(self) -> t.ClassStatistics:
    """The same on the first 64 principal axes."""
    if self.whole is None:
      return t.projected(self.statistics, self.features, self.labels)
    return t.statistics_of(self.whole.rotated, self.labels, weights=self.counts)

  @functools.cached_property
  def rotated(self) -> np.ndarray:
    """The centred features on the first 64 principal axes, [N, 64]."""
    rotated: np.ndarray = (self.features - self.statistics.mean) @ t.principal_axes(self.statistics, num=64)
    return rotated

  @functools.cached_property
  def nearest(self) -> t.Neighbours:
    """The five nearest other images of each image."""
    return t.neighbours(self.features, num=5)

  def relabelled(self, labels: np.ndarray) -> Observed:
    """Returns the same features under other labels [N]; what does not depend on labels is shared."""
    other = dataclasses.replace(self, labels=labels)
    other.__dict__["statistics"] = t.relabelled(self.statistics, self.features, labels)
    if "nearest" in self.__dict__:
      other.__dict__["nearest"] = self.nearest
    return other

  def resampled(self, counts: np.ndarray) -> Observed:
    """Returns the same images, each counted `counts` [N] times, for the scores that need moments alone."""
    return dataclasses.replace(self, counts=counts, whole=self)


@dataclasses.dataclass(frozen=True)
class TransferScore:
  """One score: how it is computed and read.

  Attributes:
    title: heading of its column.
    meaning: what it is, for a page.
    compute: makes it.
    orders: whether a larger value is claimed to mean a better transfer; otherwise it describes the features.
    default: whether it is computed unless others are asked for.
    from_moments: whether it has no terms by image, and is recomputed for every resample of the images.
    accuracy: whether it is a share of the images.
    needs_head: whether it needs the logits of the network's own head.
    marked: a known failure, which is printed with the score.
  """

  title: str
  meaning: str
  compute: Callable[[Observed], t.Score]
  orders: bool = True
  default: bool = True
  from_moments: bool = False
  accuracy: bool = False
  needs_head: bool = False
  marked: str = ""


def _probe(observed: Observed) -> t.Score:
  def fit(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Callable[[np.ndarray], np.ndarray]:
    # Few images of a class leave the choice of the penalty to the probe's own rule.
    choice = LinearProbe().choose(
      features, labels, num_classes=num_classes, seed=observed.seed, beat=lambda: None
    )
    return lambda rows: np.asarray(choice.probe.logits(jnp.asarray(rows)))

  return t.cross_validate(observed.features, observed.labels, fit=fit, seed=observed.seed)


def _ridge(observed: Observed) -> t.Score:
  return t.ridge(observed.features, observed.labels, seed=observed.seed, statistics=observed.statistics)


SCORES: Mapping[str, TransferScore] = {
  "ridge": TransferScore(
    "ridge",
    "accuracy of ridge regression on five folds that it was not fitted to",
    _ridge,
    accuracy=True,
  ),
  "h_score": TransferScore(
    "H",
    "class means against a shrunken covariance (H-score, Ledoit and Wolf's shrinkage); at most K - 1",
    lambda observed: t.h_score(observed.statistics),
    from_moments=True,
  ),
  "logme": TransferScore(
    "LogME",
    "largest log evidence of a Bayesian linear model per image, mean over classes",
    lambda observed: t.logme(observed.statistics),
    from_moments=True,
  ),
  "lfc": TransferScore(
    "LFC",
    "alignment of the features' similarities with those of the labels, from -1 to 1",
    lambda observed: t.lfc(observed.statistics),
    from_moments=True,
  ),
  "gbc": TransferScore(
    "GBC",
    "minus the mean Bhattacharyya coefficient of two classes, on 64 principal axes; from -1 to 0",
    lambda observed: t.gbc(observed.on_axes),
    from_moments=True,
  ),
  "knn_1": TransferScore(
    "1-NN",
    "leave-one-out accuracy of the nearest image by cosine",
    lambda observed: t.knn(observed.nearest, observed.labels, k=1),
    accuracy=True,
  ),
  "knn_5": TransferScore(
    "5-NN",
    "leave-one-out accuracy of the majority of the five nearest images",
    lambda observed: t.knn(observed.nearest, observed.labels, k=5),
    accuracy=True,
  ),
  "sfda": TransferScore(
    "SFDA",
    "mean posterior of the true class under a shrunken discriminant, on its own training images",
    lambda observed: t.sfda(observed.features, observed.labels, statistics=observed.statistics),
    marked="optimistic: it is scored on the images that it was fitted to",
  ),
  "leep": TransferScore(
    "LEEP",
    "mean log-likelihood of the labels by the weight's own head; 0 is best",
    lambda observed: t.leep(observed.logits, observed.labels),
    needs_head=True,
    marked="comparable only between heads with equally many classes",
  ),
  "nce": TransferScore(
    "NCE",
    "minus the conditional entropy of the label given the class that the weight's own head predicts",
    lambda observed: t.nce(observed.logits, observed.labels),
    needs_head=True,
    marked="comparable only between heads with equally many classes",
  ),
  "nc1": TransferScore(
    "NC1",
    "variability within classes relative to that of the class means; 0 where classes have collapsed",
    lambda observed: t.nc1(observed.statistics),
    orders=False,
  ),
  "effective_rank": TransferScore(
    "effective rank",
    "exponential of the entropy of the covariance's eigenvalue shares",
    lambda observed: t.effective_rank(observed.statistics),
    orders=False,
  ),
  "participation_ratio": TransferScore(
    "participation ratio",
    "squared sum of the covariance's eigenvalues over the sum of their squares",
    lambda observed: t.participation_ratio(observed.statistics),
    orders=False,
  ),
  "intrinsic_dimension": TransferScore(
    "intrinsic dimension",
    "from the ratio of the distances to the first two neighbours",
    lambda observed: t.intrinsic_dimension(observed.nearest),
    orders=False,
  ),
  "probe": TransferScore(
    "probe",
    "accuracy of logistic regression on five folds; what the cheaper scores stand in for",
    _probe,
    default=False,
    accuracy=True,
  ),
  "n_leep": TransferScore(
    "N-LEEP",
    "LEEP with the clusters of a Gaussian mixture in place of source classes",
    lambda observed: t.n_leep(observed.features, observed.labels),
    default=False,
  ),
  "transrate": TransferScore(
    "TransRate",
    "coding rate of the features minus that of the classes",
    lambda observed: t.transrate(observed.features, observed.labels),
    default=False,
    marked="columns of noise raise it, and it is 0 for two balanced classes of equal spread",
  ),
  "parc": TransferScore(
    "PARC",
    "rank correlation of the images' distances with those of their labels, on 500 images",
    lambda observed: t.parc(observed.features, observed.labels, seed=observed.seed),
    default=False,
  ),
  "plain_h_score": TransferScore(
    "plain H",
    "H-score without shrinkage",
    lambda observed: t.h_score(observed.statistics, shrinkage=0),
    default=False,
    from_moments=True,
    marked="columns of noise raise it",
  ),
}
DEFAULT = tuple(name for name, score in SCORES.items() if score.default)
# What can order weights: those that have terms by image, or follow from moments.
ORDERS = tuple(name for name, m in SCORES.items() if m.orders and name not in ("n_leep", "transrate", "parc"))


def check_scores(names: Sequence[str], *, by: str) -> tuple[str, ...]:
  """Returns the measures to compute, in the order of `SCORES`, `by` included.

  Args:
    names: of measures; "all" stands for every one.
    by: the measure that orders the weights.

  Raises:
    ConfigError: a name is unknown, or `by` cannot order.
  """
  for name in names:
    if name != "all" and name not in SCORES:
      raise ConfigError(f"no score {name!r}; expected some of {', '.join(SCORES)}, or all")
  if by not in ORDERS:
    raise ConfigError(f"weights cannot be ordered by {by!r}; expected one of {', '.join(ORDERS)}")
  return tuple(name for name in SCORES if "all" in names or name in names or name == by)


def score_all(
  observed: Observed, names: Sequence[str], *, beat: Callable[[], None] = lambda: None
) -> tuple[dict[str, Row], dict[str, np.ndarray]]:
  """Computes the measures of one weight on one target.

  Args:
    observed: by one pass.
    names: keys of `SCORES`.
    beat: called after each.

  Returns:
    name -> {"value", "standard_error" (None if there is none), "seconds", "details"}, or {"left_out": reason,
    "seconds"}; and name -> terms [N] whose mean is the value, of the measures that have some.
  """
  rows: dict[str, Row] = {}
  terms: dict[str, np.ndarray] = {}
  for name in names:
    began = time.perf_counter()
    score: t.Score | None = None
    try:
      score = SCORES[name].compute(observed)
      row = _row(score)
    except (t.ScoreError, ConfigError) as error:
      row = {"left_out": str(error)}
    except np.linalg.LinAlgError as error:
      row = {"left_out": f"the features are too ill-conditioned ({error})"}
    if score is not None and score.per_example is not None and "left_out" not in row:
      terms[name] = np.asarray(score.per_example, np.float64)
    rows[name] = row | {"seconds": time.perf_counter() - began}
    beat()
  return rows, terms


def _row(score: t.Score) -> Row:
  if not math.isfinite(score.value):
    return {"left_out": f"its value is {score.value}"}
  error = score.standard_error
  return {
    "value": float(score.value),
    "standard_error": float(error) if math.isfinite(error) else None,
    "details": {name: value for name, value in map(_plain, score.details.items()) if value is not None},
  }


def _plain(item: tuple[str, Any]) -> tuple[str, Any]:
  """Returns a by-product as JSON holds it; None for arrays and for what is not finite."""
  name, value = item
  if isinstance(value, (bool, np.bool_)):
    return name, bool(value)
  if isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value):
    return name, int(value) if isinstance(value, (int, np.integer)) else float(value)
  return name, None


def moment_values(observed: Observed, name: str, counts: np.ndarray) -> np.ndarray:
  """Computes a measure that follows from moments for resamples of the images.

  Args:
    observed: by one pass.
    name: a measure with `from_moments`.
    counts: [B, N], how often each image counts in each resample.

  Returns:
    [B] values; NaN where a resample has no value.
  """
  found = np.full(len(counts), np.nan)
  for number, count in enumerate(counts):
    try:
      found[number] = float(SCORES[name].compute(observed.resampled(count)))
    except (t.ScoreError, np.linalg.LinAlgError):
      continue
  return found


def label_null(observed: Observed, name: str, *, num_permutations: int = 20) -> Row:
  """Computes a measure under permuted labels, where it says nothing about the weight.

  Args:
    observed: by one pass.
    name: a measure that orders.
    num_permutations: of the labels.

  Returns:
    {"null_mean", "null_sd", "z"}; z is None if the null has no spread.

  Raises:
    ScoreError: the measure cannot be computed.
  """
  compute = SCORES[name].compute
  null = t.permuted_label_null(
    lambda labels: float(compute(observed.relabelled(labels))),
    observed.labels,
    num_permutations=num_permutations,
    seed=observed.seed,
  )
  return {"null_mean": null.mean, "null_sd": null.sd, "z": null.z if math.isfinite(null.z) else None}
