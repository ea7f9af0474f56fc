"""Scores of nearest neighbours: leave-one-out classification, and the intrinsic dimension."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxtl.errors import ConfigError
from jaxtl.metrics.transferability.score import Score, ScoreError, compact, finite, mean_score

# Rows of the N x N matrix that exist at a time.
CHUNK = 1024


class Neighbours(NamedTuple):
  """The nearest other images of each image, nearest first; equally near ones by increasing index.

  Attributes:
    by_cosine, cosine: [N, n] indices and cosine similarities of centred features.
    by_distance, distance: [N, n] indices and Euclidean distances.
  """

  by_cosine: np.ndarray
  cosine: np.ndarray
  by_distance: np.ndarray
  distance: np.ndarray

  @property
  def zero_distances(self) -> float:
    """The share of images that have an exact duplicate."""
    return float(np.mean(self.distance[:, 0] == 0))


def neighbours(features: np.ndarray, *, num: int = 5) -> Neighbours:
  """Finds the nearest images by cosine similarity and by Euclidean distance, from one Gram matrix in chunks.

  They do not depend on labels, so that permuted labels reuse them.

  Args:
    features: [N, D]; they are centred for the cosine, and a centred feature of length 0 has the similarity 0.
    num: n neighbours of each image.

  Raises:
    ConfigError: `num` is not positive, or the shape does not fit.
    ScoreError: a feature is not finite, or there are at most `num` images.
  """
  if num < 1:
    raise ConfigError(f"expected a positive number of neighbours, got {num!r} (for example 5)")
  given = finite(features, len(features))
  if len(given) <= num:
    raise ScoreError(f"expected over {num} images for {num} neighbours, got {len(given)}")
  centred = given - given.mean(axis=0)
  norm2 = np.sum(centred**2, axis=1)
  # Features that are constant up to rounding have no direction.
  nonzero = norm2 > 1e-24 * np.maximum(np.sum(given**2, axis=1), np.finfo(float).tiny)
  inverse = np.where(nonzero, 1 / np.sqrt(np.where(nonzero, norm2, 1)), 0)
  parts = []
  for first in range(0, len(given), CHUNK):
    rows = np.arange(first, min(first + CHUNK, len(given)))
    gram = centred[rows] @ centred.T
    # The order within a row needs neither the row's own length nor its own square.
    by_cosine, cosine = _largest(gram * inverse, rows, num)
    parts.append((by_cosine, cosine * inverse[rows, None], *_nearest(centred, gram - norm2 / 2, rows, num)))
  return Neighbours(*(np.concatenate(columns) for columns in zip(*parts)))


def _largest(values: np.ndarray, rows: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the columns of the `num` largest values of each row without itself, and these values."""
  values[np.arange(len(rows)), rows] = -np.inf
  chosen = np.argpartition(values, values.shape[1] - num, axis=1)[:, -num:]
  least = np.take_along_axis(values, chosen, axis=1).min(axis=1, keepdims=True)
  # The partition chooses among equal values at random; the lowest indices win instead.
  tied = np.count_nonzero(values >= least, axis=1) > num
  chosen[tied] = np.argsort(-values[tied], axis=1, kind="stable")[:, :num]
  chosen.sort(axis=1)
  found = np.take_along_axis(values, chosen, axis=1)
  order = np.argsort(-found, axis=1, kind="stable")
  return np.take_along_axis(chosen, order, axis=1), np.take_along_axis(found, order, axis=1)


def _nearest(
  features: np.ndarray, closeness: np.ndarray, rows: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the smallest distances; recomputes the chosen ones, so that duplicates have 0 exactly."""
  chosen, _ = _largest(closeness, rows, num)
  chosen.sort(axis=1)
  own = features[rows]
  distance = np.stack([np.linalg.norm(own - features[column], axis=1) for column in chosen.T], axis=1)
  order = np.argsort(distance, axis=1, kind="stable")
  return np.take_along_axis(chosen, order, axis=1), np.take_along_axis(distance, order, axis=1)


def knn(nearest: Neighbours, labels: np.ndarray, *, k: int = 1, metric: str = "cosine") -> Score:
  """Computes the leave-one-out accuracy of the majority of the k nearest images.

  Among classes with equally many votes, the larger sum of similarities wins (the smaller sum of distances),
  then the lower class.

  Args:
    nearest: of the features.
    labels: int [N].
    k: voters, at most the number of neighbours in `nearest`.
    metric: "cosine", of centred features, or "euclidean", of raw ones. With the latter and k = 1 it is the
      baseline of Bolya, Mittapalli, Hoffman, "Scalable Diverse Model Selection for Accessible Transfer
      Learning", 2021, arXiv 2111.06977.

  Returns:
    The accuracy with its standard error over images. Details: "zero_distances", the share of images with an
    exact duplicate, which is always classified correctly if the labels agree.

  Raises:
    ConfigError: k or the metric is not valid.
    ScoreError: fewer than two classes have images.
  """
  if metric not in ("cosine", "euclidean"):
    raise ConfigError(f"expected metric 'cosine' or 'euclidean', got {metric!r}")
  if not 1 <= k <= nearest.cosine.shape[1]:
    raise ConfigError(f"expected k from 1 to {nearest.cosine.shape[1]}, got {k!r}; give num= to neighbours")
  classes, labels = compact(labels)
  if len(labels) != len(nearest.cosine):
    raise ConfigError(f"got {len(labels)} labels for {len(nearest.cosine)} images")
  cosine = metric == "cosine"
  voters = labels[(nearest.by_cosine if cosine else nearest.by_distance)[:, :k]]
  closeness = nearest.cosine[:, :k] if cosine else -nearest.distance[:, :k]
  cells = (np.arange(len(labels))[:, None], voters)
  votes, sums = np.zeros((2, len(labels), len(classes)))
  np.add.at(votes, cells, 1)
  np.add.at(sums, cells, closeness)
  sums[votes < votes.max(axis=1, keepdims=True)] = -np.inf
  return mean_score(sums.argmax(axis=1) == labels, zero_distances=nearest.zero_distances)


def intrinsic_dimension(nearest: Neighbours) -> Score:
  """Estimates the intrinsic dimension from the ratios of second to first neighbour distances (TwoNN).

  Facco, d'Errico, Rodriguez, Laio, "Estimating the intrinsic dimension of datasets by a minimal neighborhood
  information", 2017, doi 10.1038/s41598-017-11873-y, maximum likelihood. It describes features; no order is
  claimed.

  Args:
    nearest: of at least 2 neighbours.

  Returns:
    (N - 1) / sum log(r2 / r1). N counts the images without an exact duplicate. Details: "dropped", the share
    of images that add nothing: duplicates and ratios of 1.

  Raises:
    ConfigError: there is one neighbour only.
    ScoreError: no ratio above 1 is left.
  """
  if nearest.distance.shape[1] < 2:
    raise ConfigError("expected at least 2 neighbours; give num=2 to neighbours")
  first, second = nearest.distance[:, 0], nearest.distance[:, 1]
  used = first > 0
  logs = np.log(second[used] / first[used])
  if not np.any(logs > 0):
    raise ScoreError("no image has a second neighbour that is farther than the first")
  dropped = 1 - np.count_nonzero(logs > 0) / len(first)
  return Score(float((len(logs) - 1) / logs.sum()), details={"dropped": float(dropped)})
