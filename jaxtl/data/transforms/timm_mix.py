"""The mixing of images and labels of timm, with its modes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms.declared import MIXED_LABELS, declares
from jaxtl.data.transforms.draws import beta, fold, happens
from jaxtl.data.transforms.mix import Batch, box, inside, partners, refuse_mixed
from jaxtl.data.transforms.ranges import check_probability
from jaxtl.errors import ConfigError

Mode = Literal["batch", "pair", "element"]


@dataclasses.dataclass(frozen=True)
class _MixSettings:
  """The settings that a single draw depends on; see `timm_mix`."""

  mixup_alpha: float
  cutmix_alpha: float
  probability: float
  switch_probability: float
  correct: bool
  minmax: Sequence[float] | None


def _check_timm_mix(
  *,
  mixup_alpha: float,
  cutmix_alpha: float,
  probability: float,
  switch_probability: float,
  mode: str,
  smoothing: float,
  correct: bool,
  minmax: Sequence[float] | None,
  num_classes: int | None,
) -> None:
  del correct, num_classes  # any value of one is valid; the other is known only with the data
  for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
    if not 0 <= alpha < float("inf"):
      raise ConfigError(f"timm_mix {name} is {alpha:g}; expected 0 (off) or more")
  if not mixup_alpha and not cutmix_alpha and minmax is None:
    raise ConfigError("timm_mix has mixup_alpha and cutmix_alpha 0, so it mixes nothing; leave it out")
  if mode not in get_args(Mode):
    raise ConfigError(f"timm_mix has no mode {mode!r}; expected one of {', '.join(get_args(Mode))}")
  check_probability(
    "timm_mix", probability=probability, switch_probability=switch_probability, smoothing=smoothing
  )
  if minmax is not None and not (len(minmax) == 2 and 0 <= minmax[0] <= minmax[1] <= 1):
    raise ConfigError(
      f"timm_mix minmax is {list(minmax)}; expected the smallest and the largest side of a box as parts of "
      "the image's (for example [0.2, 0.8])"
    )


@declares(check=_check_timm_mix, gives=(MIXED_LABELS,), even_rows=True)
def timm_mix(
  batch: Batch,
  seed: tf.Tensor,
  *,
  mixup_alpha: float = 1.0,
  cutmix_alpha: float = 0.0,
  probability: float = 1.0,
  switch_probability: float = 0.5,
  mode: Mode = "batch",
  smoothing: float = 0.0,
  correct: bool = True,
  minmax: Sequence[float] | None = None,
  num_classes: int | None = None,
) -> Batch:
  """Mixes pairs by mixup or CutMix with the options of timm's `Mixup` (timm/data/mixup.py), its defaults.

  timm pairs row i with row B - 1 - i. Here rows are paired as in `mixup`, so that a batch does not depend on
  how many processes share it; in random order the distribution is the same.

  Args:
    batch: `image` float32 [B, H, W, 3], `label` int32 [B], B even.
    seed: int [2].
    mixup_alpha, cutmix_alpha: parameters of the Beta distributions of the two; 0 switches one off.
    probability: probability of mixing at all.
    switch_probability: probability of CutMix if both are on.
    mode: the unit with its own draws: the "batch", each "pair", whose members are mixed by the same weight
      and box with the roles exchanged, or each "element".
    smoothing: label smoothing s of the targets: 1 - s + s / K for the class, s / K for the others. The loss
      must then not smooth them again.
    correct: takes as CutMix's weight the share of pixels kept after clipping; False keeps the one drawn.
    minmax: smallest and largest side of CutMix's box, as parts of the image's sides. The box then lies inside
      the image, its sides are uniform, and CutMix is on even if its alpha is 0.
    num_classes: K, which only smoothing needs; a config leaves it to the run.

  Returns:
    The batch with mixed images, `label_b` [B] and `weight` float32 [B]; with smoothing, `label` is float32
    [B, K], the mixed distribution, in their place.

  Raises:
    ConfigError: a setting is out of its range, the number of rows is odd, the batch is already mixed, or
      labels are to be smoothed and the number of classes is not known.
  """
  _check_timm_mix(
    mixup_alpha=mixup_alpha,
    cutmix_alpha=cutmix_alpha,
    probability=probability,
    switch_probability=switch_probability,
    mode=mode,
    smoothing=smoothing,
    correct=correct,
    minmax=minmax,
    num_classes=num_classes,
  )
  refuse_mixed(batch, name="timm_mix")
  _check_rows(batch)
  settings = _MixSettings(mixup_alpha, cutmix_alpha, probability, switch_probability, correct, minmax)
  image, partner = batch["image"], partners(batch)
  height, width = tf.shape(image)[1], tf.shape(image)[2]
  blend, boxes, weight = _drawn(batch, seed, settings, mode=mode, height=height, width=width)
  kept = tf.where(inside(boxes, height=height, width=width), 0.0, blend[:, None, None])[..., None]
  mixed = kept * image + (1 - kept) * tf.gather(image, partner)
  label, label_b = batch["label"], tf.gather(batch["label"], partner)
  if not smoothing:
    return {**batch, "image": mixed, "label_b": label_b, "weight": weight}
  soft = _smoothed(label, label_b, weight, smoothing=smoothing, num_classes=num_classes)
  return {**batch, "image": mixed, "label": soft}


def _check_rows(batch: Batch) -> None:
  rows = batch["label"].shape[0]
  if rows is not None and rows % 2:
    raise ConfigError(f"timm_mix pairs the rows of a batch, and it has {rows}; expected an even number")


def _smoothed(
  label: tf.Tensor, label_b: tf.Tensor, weight: tf.Tensor, *, smoothing: float, num_classes: int | None
) -> tf.Tensor:
  """Returns the mixed and smoothed distributions float32 [B, K]."""
  if num_classes is None:
    raise ConfigError("timm_mix smoothing needs num_classes, which is not known here; give it in the config")
  share = weight[:, None]
  hot = share * tf.one_hot(label, num_classes) + (1 - share) * tf.one_hot(label_b, num_classes)
  return (1 - smoothing) * hot + smoothing / num_classes


def _drawn(
  batch: Batch, seed: tf.Tensor, settings: _MixSettings, *, mode: Mode, height: tf.Tensor, width: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Draws for each row the mixup weight (1 under CutMix), the box (empty under mixup) and the label's weight.

  Returns:
    float32 [B], int32 [B, 4] and float32 [B].
  """
  rows = tf.shape(batch["label"])[0]
  one = lambda own: _draw(own, settings, height=height, width=width)  # noqa: E731
  if mode == "batch":
    return tuple(tf.repeat(value[None], rows, axis=0) for value in one(seed))
  # Positions in the training stream, if they are known: so the draws are the same on any number of processes.
  numbers = tf.cast(batch.get("position", tf.range(rows)), tf.int64)
  numbers = numbers[::2] // 2 if mode == "pair" else numbers
  drawn = tf.map_fn(
    lambda number: one(fold(seed, number)),
    numbers,
    fn_output_signature=(
      tf.TensorSpec([], tf.float32),
      tf.TensorSpec([4], tf.int32),
      tf.TensorSpec([], tf.float32),
    ),
  )
  return tuple(tf.repeat(value, 2, axis=0) for value in drawn) if mode == "pair" else drawn


def _draw(
  seed: tf.Tensor, settings: _MixSettings, *, height: tf.Tensor, width: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Draws the mixup weight, the box and the label's weight of one row, pair or batch."""
  is_cutmix = _is_cutmix(fold(seed, 1), settings)
  mixes = happens(fold(seed, 2), settings.probability)
  # With `minmax`, CutMix is on even if its alpha is 0, and takes its weight from the box.
  mixup_weight = beta(fold(seed, 3), alpha=settings.mixup_alpha or 1.0)
  cutmix_weight = beta(fold(seed, 4), alpha=settings.cutmix_alpha or 1.0)
  if settings.minmax is None:
    drawn = box(fold(seed, 5), share=cutmix_weight, height=height, width=width)
  else:
    drawn = _box_inside(fold(seed, 5), settings.minmax, height=height, width=width)
  drawn = tf.where(mixes & is_cutmix, drawn, 0)
  if settings.correct or settings.minmax is not None:
    area = tf.cast((drawn[2] - drawn[0]) * (drawn[3] - drawn[1]), tf.float32)
    cutmix_weight = 1 - area / tf.cast(height * width, tf.float32)
  blend = tf.where(mixes & ~is_cutmix, mixup_weight, 1.0)
  return blend, drawn, tf.where(mixes & is_cutmix, cutmix_weight, blend)


def _is_cutmix(seed: tf.Tensor, settings: _MixSettings) -> tf.Tensor:
  if not settings.mixup_alpha:
    return tf.constant(True)
  if not settings.cutmix_alpha and settings.minmax is None:
    return tf.constant(False)
  return happens(seed, settings.switch_probability)


def _box_inside(
  seed: tf.Tensor, minmax: Sequence[float], *, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
  """Draws a box int32 [4] inside the image, with uniform sides."""
  sides = tf.cast(tf.stack([height, width]), tf.float32)
  draws = tf.random.stateless_uniform([2, 2], seed)
  least, most = tf.floor(minmax[0] * sides), tf.floor(minmax[1] * sides)
  lengths = tf.floor(least + (most - least) * draws[0])
  corner = tf.floor((sides - lengths) * draws[1])
  return tf.cast(tf.concat([corner, corner + lengths], 0), tf.int32)
