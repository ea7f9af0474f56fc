"""Do scores order checkpoints as their measured transfer does, and better than what is known without them?"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl import metrics
from jaxtl.measure.transfer_scores import SCORES
from jaxtl.metrics import Interval, RankingError

Rows = Sequence[Mapping[str, Any]]

SOURCE_ACCURACY, PARAMETERS, OTHERS = "source_accuracy", "parameters", "other_targets"
BASELINES = {
  SOURCE_ACCURACY: "source accuracy",
  PARAMETERS: "number of parameters",
  OTHERS: "accuracy on the other targets",
}
# With fewer, no predictor can be preferred.
LEAST_TARGETS = LEAST_CLUSTERS = 5
# A choice within this many points of the best counts as good.
CLOSE = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Grounds:
  """The numbers on which predictors are judged, for one protocol; NaN where something was not measured.

  Attributes:
    arms, targets: names of M checkpoints and T targets.
    clusters: [M] cluster of each checkpoint.
    architectures: [M] architecture of each checkpoint.
    accuracies: [T, M] measured accuracy in percent, mean over seeds.
    predictors: name -> [T, M] predictions: scores, and the baselines in `BASELINES`.
    left_out: predictors that are not comparable between these checkpoints, with the reason.
  """

  arms: tuple[str, ...]
  targets: tuple[str, ...]
  clusters: np.ndarray
  architectures: np.ndarray
  accuracies: np.ndarray
  predictors: Mapping[str, np.ndarray]
  left_out: Mapping[str, str]

  @property
  def num_clusters(self) -> int:
    return len(set(self.clusters.tolist()))


@dataclasses.dataclass(frozen=True)
class Judgement:
  """How well one predictor orders the checkpoints; means over targets, None where it is not defined.

  Attributes:
    predictor: a score, or a baseline.
    tau: weighted Kendall correlation, and its interval over targets and clusters.
    taus: by target; NaN where the predictor has fewer than two checkpoints.
    pearson, spearman: correlations.
    regret: points that are lost by taking the checkpoint with the highest value.
    close: number of targets on which that checkpoint is within a point of the best.
    judged: number of targets that count.
    partial: Spearman correlation given the source accuracy.
    within: weighted tau within each architecture of at least four checkpoints.
    gain: tau minus that of the source accuracy in the same resamples.
  """

  predictor: str
  tau: Interval
  taus: tuple[float, ...]
  pearson: float | None
  spearman: float | None
  regret: float
  close: int
  judged: int
  partial: float | None
  within: float | None
  gain: Interval | None


def grounds(rows: Rows, protocol: str) -> Grounds | None:
  """Collects what a study measured, for one protocol; None if fewer than two checkpoints have an accuracy.

  Args:
    rows: of the study, with their "arm" and "seed".
    protocol: of the transfer, such as "fine_tune".
  """
  weights = {row["arm"]: row for row in rows if row.get("kind") == "weight"}
  measured = [row for row in rows if row.get("kind") == "transfer" and row["protocol"] == protocol]
  arms = tuple(arm for arm in weights if any(row["arm"] == arm for row in measured))
  targets = tuple(dict.fromkeys(row["target"] for row in measured))
  if len(arms) < 2:
    return None
  accuracies = 100 * _mean_table(measured, "accuracy", arms, targets)
  scores = [row for row in rows if row.get("kind") == "score"]
  names = [name for name in SCORES if SCORES[name].orders and any(row["score"] == name for row in scores)]
  heads = {weights[arm]["head_classes"] for arm in arms if weights[arm]["head_classes"]}
  left_out = {
    name: "the heads have different numbers of classes"
    for name in names
    if SCORES[name].needs_head and len(heads) > 1
  }
  predictors = {
    name: _mean_table([row for row in scores if row["score"] == name], "value", arms, targets)
    for name in names
    if name not in left_out
  }
  for name in (SOURCE_ACCURACY, PARAMETERS):
    known = np.array([weights[arm].get(name) for arm in arms], float)  # None becomes NaN
    if np.isfinite(known).sum() >= 2:
      predictors[name] = np.tile(known, (len(targets), 1))
  if len(targets) > 1:
    predictors[OTHERS] = metrics.mean_of_others(accuracies)
  clusters = np.array([str(weights[arm]["cluster"]) for arm in arms])
  architectures = np.array([str(weights[arm]["architecture"]) for arm in arms])
  return Grounds(arms, targets, clusters, architectures, accuracies, predictors, left_out)


def _mean_table(rows: Rows, key: str, arms: Sequence[str], targets: Sequence[str]) -> np.ndarray:
  """Returns [T, M] means over the rows of each target and arm; NaN where there is none."""
  found: dict[tuple[str, str], list[float]] = {}
  for row in rows:
    if row.get(key) is not None:
      found.setdefault((row["target"], row["arm"]), []).append(float(row[key]))
  return np.array([[np.mean(found.get((target, arm), [np.nan])) for arm in arms] for target in targets])


def judge(given: Grounds, predictor: str, *, draws: int = 1000, seed: int = 0) -> Judgement | None:
  """Judges one predictor; None if no target has two checkpoints with a prediction and an accuracy.

  Args:
    given: the numbers.
    predictor: its name.
    draws: resamples of targets and clusters together.
    seed: seed of the resamples.
  """
  values, accuracies = given.predictors[predictor], given.accuracies
  pairs = [_both(s, a) for s, a in zip(values, accuracies, strict=True)]
  pairs = [(s, a) for s, a in pairs if len(s) >= 2]
  if not pairs:
    return None
  baseline = given.predictors.get(SOURCE_ACCURACY)
  compares = baseline is not None and predictor != SOURCE_ACCURACY
  losses = [metrics.regret(s, a) for s, a in pairs]
  return Judgement(
    predictor,
    tau=_interval(given, _tau_of(values, accuracies), draws, seed),
    taus=tuple(_tau(s, a) for s, a in (_both(*one) for one in zip(values, accuracies, strict=True))),
    pearson=_mean([float(metrics.pearson(s, a)) for s, a in pairs]),
    spearman=_mean([float(metrics.spearman(s, a)) for s, a in pairs]),
    regret=float(np.mean(losses)),
    close=sum(loss <= CLOSE for loss in losses),
    judged=len(pairs),
    partial=_partial(values, accuracies, baseline) if compares and baseline is not None else None,
    within=_within(given, values),
    gain=_gain(given, values, baseline, draws, seed) if compares and baseline is not None else None,
  )


def _both(s: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Leaves out the checkpoints without a score or an accuracy."""
  known = ~(np.isnan(s) | np.isnan(a))
  return s[known], a[known]


def _tau(s: np.ndarray, a: np.ndarray) -> float:
  return float(metrics.weighted_tau(s, a)) if len(s) >= 2 else float("nan")


def _tau_of(values: np.ndarray, accuracies: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
  """Returns the mean weighted tau as a function of chosen targets and checkpoints."""

  def statistic(targets: np.ndarray, arms: np.ndarray) -> float:
    chosen = np.ix_(targets, arms)
    try:
      return metrics.mean_agreement(values[chosen], accuracies[chosen])
    except RankingError:  # a resample of checkpoints without this score
      return float("nan")

  return statistic


def _interval(
  given: Grounds, statistic: Callable[[np.ndarray, np.ndarray], float], draws: int, seed: int
) -> Interval:
  """Returns an interval over targets and clusters; one of NaN for fewer than three clusters."""
  num_targets = len(given.targets)
  try:
    return metrics.joint_interval(num_targets, given.clusters, statistic, draws=draws, seed=seed)
  except RankingError:
    estimate = statistic(np.arange(num_targets), np.arange(len(given.arms)))
    return Interval(estimate, float("nan"), float("nan"))


def _gain(given: Grounds, values: np.ndarray, baseline: np.ndarray, draws: int, seed: int) -> Interval:
  """Compares with the source accuracy over the checkpoints that have both."""
  accuracies = np.where(np.isnan(values) | np.isnan(baseline), np.nan, given.accuracies)
  own, known = _tau_of(values, accuracies), _tau_of(baseline, accuracies)
  return _interval(given, lambda targets, arms: own(targets, arms) - known(targets, arms), draws, seed)


def _partial(values: np.ndarray, accuracies: np.ndarray, baseline: np.ndarray) -> float | None:
  found = []
  for s, a, known in zip(values, accuracies, baseline, strict=True):
    there = ~(np.isnan(s) | np.isnan(a) | np.isnan(known))
    if there.sum() >= 4:
      found.append(metrics.partial_spearman(s[there], a[there], known[there]))
  return _mean(found)


def _within(given: Grounds, values: np.ndarray) -> float | None:
  """Returns the mean weighted tau within architectures; None if none has four checkpoints."""
  found = []
  for s, a in zip(values, given.accuracies, strict=True):
    known = ~(np.isnan(s) | np.isnan(a))
    with contextlib.suppress(RankingError):
      found.append(metrics.within_groups(s[known], a[known], given.architectures[known]))
  return _mean(found)


def _mean(values: Sequence[float]) -> float | None:
  """Returns the mean of the values that are defined; None if there is none."""
  known = [value for value in values if not np.isnan(value)]
  return float(np.mean(known)) if known else None


def judgements(given: Grounds, *, draws: int = 1000) -> list[Judgement]:
  """Judges every predictor, best first."""
  found = [judge(given, name, draws=draws) for name in given.predictors]
  return sorted((one for one in found if one is not None), key=lambda one: -one.tau.estimate)


def chance(given: Grounds) -> float | None:
  """Returns the weighted tau that 5 % of the random orders of as many checkpoints exceed on one target."""
  num = len(given.arms)
  return float(np.quantile(metrics.random_orders(num, draws=2000), 0.95)) if num >= 3 else None
