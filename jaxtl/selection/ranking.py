"""Orders weights by a score on one target, and says how sure the order is and whether other scores agree."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxtl import metrics
from jaxtl.errors import InputError
from jaxtl.measure.transfer_scores import SCORES
from jaxtl.types import Row

# Weights within this many paired standard errors of a leader share its rank.
SHARED = 1.0
# A weight is dominated by one that is faster, and better by more than this many standard errors.
DOMINATES = 2.0
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Place:
  """One weight in the order.

  Attributes:
    row: of `candidates.describe` and `candidates.assess`.
    rank: from 1; weights within a standard error share one. None if the deciding score is left out.
    value, standard_error: of the deciding score; None where there is none.
    low, high: percentile interval of 95 % over resamples of the images; None without resamples.
    first: share of the resamples in which it is first; None without resamples.
    behind: how far it is behind the first, and the standard error of that over the same images; None for the
      first, or where there is none.
    dominated_by: a weight that is faster, and better by more than two standard errors.
  """

  row: Row
  rank: int | None
  value: float | None
  standard_error: float | None
  low: float | None = None
  high: float | None = None
  first: float | None = None
  behind: tuple[float, float | None] | None = None
  dominated_by: str | None = None

  @property
  def name(self) -> str:
    return str(self.row["weight"])


@dataclasses.dataclass(frozen=True)
class Agreement:
  """What another score says about the order.

  Attributes:
    score: its name.
    first: the weights that it puts first.
    tau: Kendall's tau-b with the deciding score; None if one of them is constant.
    agrees: whether the first weight of the order is among `first`.
  """

  score: str
  first: tuple[str, ...]
  tau: float | None
  agrees: bool


@dataclasses.dataclass(frozen=True)
class Ranking:
  """Weights in their order on one target.

  Attributes:
    target: row of `candidates.target_row`.
    by: the deciding score.
    places: best first; weights without the deciding score come last.
    agreements: of the other ordering scores that at least two weights have.
    incomparable: scores that are left out of `agreements` because the heads have different numbers of
      classes.
    draws: number of resamples.
    controls: rows of `candidates.control_rows`.
    tuned: rows of fine-tuned weights, with "weight"; empty if none was fine-tuned.
    notes: what else the reader must know, such as weights that a budget left out.
  """

  target: Row
  by: str
  places: tuple[Place, ...]
  agreements: tuple[Agreement, ...] = ()
  incomparable: tuple[str, ...] = ()
  draws: int = 0
  controls: tuple[Row, ...] = ()
  tuned: tuple[Row, ...] = ()
  notes: tuple[str, ...] = ()

  @property
  def ranked(self) -> list[Place]:
    """The weights that have the deciding score."""
    return [place for place in self.places if place.rank is not None]


def value_of(row: Row, score: str) -> float | None:
  """Returns a score of a row; None if it is left out or was not computed."""
  return row["scores"].get(score, {}).get("value")


def rank_weights(
  rows: Sequence[Row],
  *,
  by: str,
  target: Row,
  draws: int = 1000,
  seed: int = 0,
  controls: Sequence[Row] = (),
) -> Ranking:
  """Orders weights by one score.

  Args:
    rows: of `candidates.describe` and `candidates.assess`, one per weight.
    by: the score.
    target: row of `candidates.target_row`.
    draws: resamples of the images for scores with terms by image.
    seed: seed of the resamples.
    controls: rows of `candidates.control_rows`.

  Raises:
    InputError: the rows are of different images, or no weight has the score.
  """
  _same_images(rows)
  having = [row for row in rows if value_of(row, by) is not None]
  if not having:
    reason = next(iter(rows))["scores"][by]["left_out"]
    raise InputError(f"no weight has the score {by}: {reason}; give another --by")
  resampled = _resampled(having, by, draws, seed)
  values = np.array([value_of(row, by) for row in having], float)
  order = np.argsort(-values, kind="stable")
  ranks = _ranks(having, values, resampled)
  first = None if resampled is None else metrics.first_shares(resampled)
  places = [
    _place(having[i], by, int(ranks[i]), None if first is None else float(first[i]), resampled, int(i))
    for i in order
  ]
  leader = having[order[0]]
  places = [
    place if place.row is leader else dataclasses.replace(place, behind=_behind(leader, place.row, by))
    for place in places
  ]
  places = [dataclasses.replace(place, dominated_by=_dominator(place, places, by)) for place in places]
  rest = [Place(row, None, None, None) for row in rows if value_of(row, by) is None]
  agreements, incomparable = _agreements(rows, by, places[0].name)
  count = 0 if resampled is None else len(resampled)
  return Ranking(target, by, (*places, *rest), agreements, incomparable, count, tuple(controls))


def _same_images(rows: Sequence[Row]) -> None:
  first = rows[0]
  for row in rows[1:]:
    if row["images"] != first["images"]:
      raise InputError(
        f"{first['weight']} was scored on {first['num_images']} images and {row['weight']} on other "
        f"{row['num_images']}; scores are comparable on the same images only"
      )


def _resampled(rows: Sequence[Row], by: str, draws: int, seed: int) -> np.ndarray | None:
  """Returns [B, M] values of the deciding score over resamples of the images."""
  if all(row["terms"] is not None for row in rows):
    return metrics.resampled_means(np.array([row["terms"] for row in rows]), draws=draws, seed=seed)
  if all(row["resampled"] is not None for row in rows):
    return np.array([row["resampled"] for row in rows], float).T  # None becomes NaN
  return None


def _ranks(rows: Sequence[Row], values: np.ndarray, resampled: np.ndarray | None) -> np.ndarray:
  """Returns [M] ranks; weights within a standard error of a leader share its rank."""
  if all(row["terms"] is not None for row in rows):
    return metrics.shared_ranks(np.array([row["terms"] for row in rows]), errors=SHARED)
  order = np.argsort(-values, kind="stable")
  ranks = np.zeros(len(values), int)
  leader, rank = order[0], 1
  for place, index in enumerate(order, start=1):
    error = 0.0 if resampled is None else float(np.nanstd(resampled[:, leader] - resampled[:, index]))
    if values[leader] - values[index] > SHARED * error:
      leader, rank = index, place
    ranks[index] = rank
  return ranks


def _place(
  row: Row, by: str, rank: int, first: float | None, resampled: np.ndarray | None, column: int
) -> Place:
  found = row["scores"][by]
  error, low, high = found["standard_error"], None, None
  if resampled is not None:
    values = resampled[:, column]
    low, high = (float(x) for x in np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    error = float(np.nanstd(values)) if error is None else error
  return Place(row, rank, float(found["value"]), error, low, high, first)


def _behind(leader: Row, row: Row, by: str) -> tuple[float, float | None]:
  """Returns how far a row is behind the leader, and the standard error of the difference."""
  gap = float(leader["scores"][by]["value"]) - float(row["scores"][by]["value"])
  if leader["terms"] is not None and row["terms"] is not None:
    return gap, metrics.paired_difference(leader["terms"], row["terms"])[1]
  if leader["resampled"] is not None and row["resampled"] is not None:
    differences = np.array(leader["resampled"], float) - np.array(row["resampled"], float)
    return gap, float(np.nanstd(differences))
  return gap, None


def _dominator(place: Place, places: Sequence[Place], by: str) -> str | None:
  """Returns the best weight that is faster and better by more than two standard errors, if any."""
  for other in places:
    if other is place or other.row["milliseconds_per_image"] >= place.row["milliseconds_per_image"]:
      continue
    gap, error = _behind(other.row, place.row, by)
    if error is not None and gap > DOMINATES * error:
      return other.name
  return None


def _agreements(rows: Sequence[Row], by: str, first: str) -> tuple[tuple[Agreement, ...], tuple[str, ...]]:
  """Compares every other ordering score with the deciding one, over the weights that have both."""
  found, incomparable = [], []
  names = dict.fromkeys(name for row in rows for name in row["scores"])
  for name in names:
    if name == by or not SCORES[name].orders:
      continue
    both = [row for row in rows if value_of(row, name) is not None and value_of(row, by) is not None]
    # A score that the first weight lacks cannot agree with its place.
    if len(both) < 2 or first not in [row["weight"] for row in both]:
      continue
    if SCORES[name].needs_head and len({row["head_classes"] for row in both}) > 1:
      incomparable.append(name)
      continue
    values, deciding = (np.array([value_of(row, score) for row in both], float) for score in (name, by))
    leaders = tuple(
      str(row["weight"]) for row, value in zip(both, values, strict=True) if value == values.max()
    )
    tau = float(metrics.kendall_tau(values, deciding))
    found.append(Agreement(name, leaders, None if math.isnan(tau) else tau, first in leaders))
  return tuple(found), tuple(incomparable)
