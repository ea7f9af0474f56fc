"""From the outputs of a dense detector to a fixed number of boxes per image.

Everything has fixed shapes, so that it is jitted with the network. Average precision is not computed here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxtl import boxes as geometry
from jaxtl.errors import ConfigError, DataError
from jaxtl.types import Array

# The score of a row that is not a candidate, or was already taken.
GONE = -jnp.inf


class Kept(NamedTuple):
  """The candidates that a suppression keeps, best first.

  Attributes:
    indices: int32 [M], the numbers of the candidates; unused places hold -1.
    scores: float32 [M], their scores, after any decay; unused places hold -inf.
  """

  indices: Array
  scores: Array


class Detections(NamedTuple):
  """The detected boxes of a batch, best first.

  Attributes:
    boxes: float32 [B, M, 4] in pixels of the network's input.
    scores: float32 [B, M]; unused places hold 0.
    classes: int32 [B, M], counted from 0; unused places hold -1.
    valid: bool [B, M], which rows hold a box.
  """

  boxes: Array
  scores: Array
  classes: Array
  valid: Array


Suppression = Callable[..., Kept]


def nms(
  boxes: Array, scores: Array, groups: Array, *, threshold: float = 0.5, max_outputs: int = 100
) -> Kept:
  """Keeps the best candidate, drops those of its group that overlap it too much, and repeats.

  Args:
    boxes: [N, 4].
    scores: [N]; -inf for what is not a candidate. Of equal scores the first comes first.
    groups: int [N], the classes; a box suppresses only its own group. Zeros make one group of all.
    threshold: a box whose intersection over union with a kept one is above it is dropped; 0.5 in the TPU
      detectors and in torchvision.
    max_outputs: M.

  Returns:
    The kept candidates, best first.

  Raises:
    ConfigError: a hyperparameter is out of its range.
    DataError: shapes do not fit.
  """
  if not 0 <= threshold <= 1:
    raise ConfigError(f"threshold is {threshold}; write a number from 0 to 1")

  def suppressed(scores: Array, overlap: Array) -> Array:
    return jnp.where(overlap > threshold, GONE, scores)

  return _suppress(boxes, scores, groups, suppressed, max_outputs)


def soft_nms(
  boxes: Array,
  scores: Array,
  groups: Array,
  *,
  sigma: float = 0.3,
  min_score: float = 1e-3,
  max_outputs: int = 100,
) -> Kept:
  """Keeps the best candidate, multiplies the scores of its group by exp(-IoU^2 / sigma), and repeats.

  Bodla, Singh, Chellappa, Davis, "Soft-NMS: Improving Object Detection With One Line of Code", 2017,
  arXiv 1704.04503.

  Args:
    boxes: [N, 4].
    scores: [N] of 0 or more; -inf for what is not a candidate.
    groups: int [N]; see `nms`.
    sigma: above 0; 0.5 in the paper, 0.3 in the SpineNet detectors.
    min_score: candidates whose score falls below it are dropped.
    max_outputs: M.

  Returns:
    The kept candidates with their decayed scores, best first.

  Raises:
    ConfigError: a hyperparameter is out of its range.
    DataError: shapes do not fit.
  """
  if not 0 < sigma < float("inf"):
    raise ConfigError(f"sigma is {sigma}; write a finite number above 0")

  def suppressed(scores: Array, overlap: Array) -> Array:
    decayed = scores * jnp.exp(-(overlap**2) / sigma)
    return jnp.where(decayed < min_score, GONE, decayed)

  return _suppress(boxes, scores, groups, suppressed, max_outputs)


def _suppress(
  boxes: Array,
  scores: Array,
  groups: Array,
  suppressed: Callable[[Array, Array], Array],
  max_outputs: int,
) -> Kept:
  """Takes the best candidate `max_outputs` times; `suppressed` maps scores and overlaps to new scores."""
  if isinstance(max_outputs, bool) or not isinstance(max_outputs, int) or max_outputs < 1:
    raise ConfigError(f"max_outputs must be an integer of at least 1; got {max_outputs!r} (for example 100)")
  boxes, scores = geometry.checked(boxes), jnp.asarray(scores).astype(jnp.float32)
  if boxes.ndim != 2 or scores.shape != boxes.shape[:1] or groups.shape != boxes.shape[:1]:
    raise DataError(
      f"boxes have shape {list(boxes.shape)}, scores {list(scores.shape)} and groups {list(groups.shape)}; "
      "expected [N, 4], [N] and [N]"
    )

  corners = geometry.corners(boxes)

  def take(scores: Array, _: None) -> tuple[Array, Kept]:
    best = jnp.argmax(scores)
    score = scores[best]
    overlap = geometry.overlap(corners, geometry.corners(boxes[best]))
    overlap = jnp.where(groups == groups[best], overlap, 0)
    scores = suppressed(scores, overlap).at[best].set(GONE)
    index = jnp.where(score == GONE, -1, best).astype(jnp.int32)
    return scores, Kept(index, score)

  _, kept = jax.lax.scan(take, scores, length=max_outputs)
  return kept


def detections(
  logits: Array,
  codes: Array,
  anchors: Array,
  limits: Array,
  *,
  first_class: int = 1,
  min_score: float = 0.05,
  candidates: int = 5000,
  max_outputs: int = 100,
  suppress: Suppression = nms,
  legacy: bool = False,
) -> Detections:
  """Turns the outputs of a dense detector into boxes.

  The candidates are the best (anchor, class) pairs over all levels. They are decoded and clipped, and those
  that overlap a better one of their class are suppressed. This equals suppression class by class if
  `candidates` truncates nothing.

  Args:
    logits: [B, A, C] of sigmoids.
    codes: [B, A, 4].
    anchors: [A, 4].
    limits: [B, 2], height and width up to which boxes reach: those of the image inside a padded input. The
      TPU detectors clip at one pixel less than the size of the input.
    first_class: channel of class 0, before which nothing is detected; 1 for the preset "tpu" of `retinanet`,
      0 for "torchvision".
    min_score: probability that a candidate exceeds; 0.05 in RetinaNet.
    candidates: number of pairs that enter the suppression; the TPU detectors have 5,000 per class.
    max_outputs: M, boxes per image.
    suppress: (boxes, scores, groups, *, max_outputs) -> Kept: `nms` or `soft_nms`.
    legacy: see `jaxtl.boxes.decode`.

  Returns:
    The detections of each image.

  Raises:
    ConfigError: a hyperparameter is out of its range.
    DataError: shapes do not fit.
  """
  logits, codes, anchors = jnp.asarray(logits), jnp.asarray(codes), jnp.asarray(anchors)
  if logits.ndim != 3 or codes.shape != (*logits.shape[:2], 4) or anchors.shape != codes.shape[1:]:
    raise DataError(
      f"logits have shape {list(logits.shape)}, codes {list(codes.shape)} and anchors {list(anchors.shape)}; "
      "expected [B, A, C], [B, A, 4] and [A, 4]"
    )
  if not 0 <= first_class < logits.shape[-1]:
    raise ConfigError(f"first_class is {first_class}; expected a channel from 0 to {logits.shape[-1] - 1}")
  if candidates < 1:
    raise ConfigError(f"candidates must be an integer of at least 1; got {candidates!r} (for example 5000)")

  def one(logits: Array, codes: Array, limits: Array) -> Detections:
    probability = jax.nn.sigmoid(logits[:, first_class:].astype(jnp.float32))
    num_classes = probability.shape[-1]
    flat = jnp.where(probability > min_score, probability, GONE).reshape(-1)
    scores, pair = jax.lax.top_k(flat, min(candidates, flat.size))
    anchor, classes = pair // num_classes, pair % num_classes
    boxes = geometry.clip(geometry.decode(codes[anchor], anchors[anchor], legacy=legacy), limits)
    kept = suppress(boxes, scores, classes, max_outputs=max_outputs)
    valid = kept.indices >= 0
    return Detections(
      jnp.where(valid[:, None], boxes[kept.indices], 0),
      jnp.where(valid, kept.scores, 0),
      jnp.where(valid, classes[kept.indices], -1).astype(jnp.int32),
      valid,
    )

  return jax.vmap(one)(logits, codes, jnp.asarray(limits))
