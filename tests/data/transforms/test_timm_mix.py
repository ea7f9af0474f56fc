"""timm's mixing against a loop over rows written from its rules, and the laws of its draws."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from jaxtl import data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms import timm_mix as module
from jaxtl.errors import ConfigError

ROWS, CLASSES = 8, 5
IMAGES = np.random.default_rng(0).normal(size=(ROWS, 12, 10, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 4, 0, 2, 2], np.int32)
BOTH = dict(mixup_alpha=0.8, cutmix_alpha=1.0)


def batch(**changes):
  return {
    "image": tf.constant(IMAGES),
    "label": tf.constant(LABELS),
    "mask": tf.ones([ROWS], tf.bool),
  } | changes


def seeds(count):
  return [tf.constant([9, number], tf.int64) for number in range(count)]


def reference(images, labels, blend, boxes, weights, *, mode, smoothing):
  """The rules as loops, in float64, with timm's pairs: row i and row B - 1 - i."""
  rows = len(images)
  mixed, targets = np.empty_like(images, np.float64), np.zeros((rows, CLASSES))
  for i in range(rows):
    j = rows - 1 - i
    own = min(i, j) if mode == "pair" else 0 if mode == "batch" else i
    top, left, bottom, right = boxes[own]
    mixed[i] = blend[own] * images[i].astype(np.float64) + (1 - blend[own]) * images[j]
    mixed[i, top:bottom, left:right] = images[j, top:bottom, left:right]
    for label, share in ((labels[i], weights[own]), (labels[j], 1 - weights[own])):
      hot = np.full(CLASSES, smoothing / CLASSES)
      hot[label] = 1 - smoothing + smoothing / CLASSES
      targets[i] += share * hot
  return mixed, targets


@pytest.mark.parametrize("minmax", [None, (0.2, 0.8)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mode", ["batch", "pair", "element"])
def test_it_is_the_loop_over_timms_pairs(mode, smoothing, minmax):
  # In this order the neighbours of ours are timm's pairs.
  order = np.array([*range(0, ROWS, 2), *range(ROWS - 1, 0, -2)])
  settings = module._MixSettings(0.8, 1.0, 0.9, 0.5, True, minmax)
  mix = tf.function(
    partial(
      data.timm_mix,
      **BOTH,
      probability=0.9,
      mode=mode,
      smoothing=smoothing,
      minmax=minmax,
      num_classes=CLASSES,
    )
  )
  draw = tf.function(partial(module._drawn, settings=settings, mode=mode, height=12, width=10))
  for seed in seeds(6):
    blend, boxes, weights = (value.numpy()[order] for value in draw(batch(), seed))
    expected, targets = reference(
      IMAGES[order], LABELS[order], blend, boxes, weights, mode=mode, smoothing=smoothing
    )
    found = {key: value.numpy() for key, value in mix(batch(), seed).items()}
    np.testing.assert_allclose(found["image"][order], expected, atol=1e-6)
    if smoothing:
      assert "label_b" not in found
      np.testing.assert_allclose(found["label"][order], targets, atol=1e-6)
      np.testing.assert_allclose(found["label"].sum(1), 1, atol=1e-6)
    else:
      np.testing.assert_array_equal(found["label"], LABELS)
      np.testing.assert_array_equal(found["label_b"], LABELS[np.arange(ROWS) ^ 1])
      np.testing.assert_allclose(found["weight"][order], weights, atol=1e-6)


@pytest.mark.parametrize(("correct", "minmax"), [(True, None), (False, None), (True, (0.3, 0.9))])
def test_the_weight_is_the_counted_share_of_pixels_if_it_is_corrected(correct, minmax):
  mix = tf.function(
    partial(data.timm_mix, mixup_alpha=0.0, cutmix_alpha=1.0, mode="element", correct=correct, minmax=minmax)
  )
  gaps = []
  for seed in seeds(20):
    found = mix(batch(), seed)
    kept = (found["image"].numpy() == IMAGES).all(-1).mean((1, 2))
    gaps.append(abs(kept - found["weight"].numpy()).max())
  assert max(gaps) < 1e-6 if correct else max(gaps) > 0.05


def test_modes_differ_in_what_has_its_own_draws():
  for mode, distinct in (("batch", 1), ("pair", ROWS // 2), ("element", ROWS)):
    weight = data.timm_mix(batch(), seeds(1)[0], mode=mode)["weight"].numpy()
    assert len(np.unique(weight)) == distinct
    if mode == "pair":
      np.testing.assert_array_equal(weight[::2], weight[1::2])


def test_draws_follow_the_position_in_the_stream():
  """Half of the batch, as another process has it, is mixed as in the whole batch."""
  for mode in ("pair", "element"):
    mix = partial(data.timm_mix, **BOTH, mode=mode)
    whole = mix(batch(position=tf.range(40, 40 + ROWS, dtype=tf.int64)), seeds(1)[0])
    half = {key: value[4:] for key, value in batch(position=tf.range(40, 40 + ROWS, dtype=tf.int64)).items()}
    found = mix(half, seeds(1)[0])
    for key in ("image", "label_b", "weight"):
      np.testing.assert_array_equal(found[key], whole[key][4:])


def simulated(rng, count, settings):
  """Weights of labels and choices of CutMix by timm's rules, for images of 12 x 10 pixels."""
  weights, choices = np.ones(count), np.zeros(count, bool)
  for number in range(count):
    both = settings.mixup_alpha > 0 and (settings.cutmix_alpha > 0 or settings.minmax is not None)
    cut = rng.random() < settings.switch_probability if both else settings.mixup_alpha == 0
    if rng.random() >= settings.probability:
      continue
    alpha = (settings.cutmix_alpha or 1.0) if cut else settings.mixup_alpha
    weights[number] = rng.beta(alpha, alpha)
    choices[number] = cut
    if cut and settings.minmax is not None:
      sides = [rng.integers(int(n * settings.minmax[0]), int(n * settings.minmax[1])) for n in (12, 10)]
      weights[number] = 1 - sides[0] * sides[1] / 120
    elif cut and settings.correct:
      area = 1
      for n in (12, 10):
        half, middle = int(n * np.sqrt(1 - weights[number])) // 2, rng.integers(0, n)
        area *= min(middle + half, n) - max(middle - half, 0)
      weights[number] = 1 - area / 120
  return weights, choices


@pytest.mark.parametrize(
  "settings",
  [
    module._MixSettings(0.8, 1.0, 1.0, 0.5, True, None),
    module._MixSettings(0.2, 0.0, 0.7, 0.5, True, None),
    module._MixSettings(0.0, 0.5, 0.5, 0.5, False, None),
    module._MixSettings(1.0, 0.0, 0.8, 0.25, True, (0.25, 0.75)),
  ],
  ids=["both", "mixup", "cutmix", "minmax"],
)
def test_draws_have_timms_law(settings):
  """False alarms: means of 2,000 draws differ by 4.4 s.e. in 1e-5 of such comparisons, three for each."""
  run = tf.function(
    lambda: tf.map_fn(
      lambda number: module._draw(tf.stack([5, number]), settings, height=12, width=10),
      tf.range(2000),
      fn_output_signature=(tf.float32, tf.int32, tf.float32),
    )
  )
  blend, _, weights = (value.numpy() for value in run())
  expected, choices = simulated(np.random.default_rng(1), 2000, settings)
  for ours, theirs in (
    (weights, expected),
    (weights**2, expected**2),
    ((weights != 1) & (blend == 1), choices & (expected != 1)),
  ):
    error = np.sqrt((np.var(ours) + np.var(theirs)) / 2000)
    assert abs(np.mean(ours) - np.mean(theirs)) <= 4.4 * error


def test_probability_zero_mixes_nothing():
  for mode in ("batch", "pair", "element"):
    found = data.timm_mix(batch(), seeds(1)[0], **BOTH, probability=0.0, mode=mode)
    np.testing.assert_array_equal(found["image"], IMAGES)
    np.testing.assert_array_equal(found["weight"], np.ones(ROWS))


def test_odd_mixed_and_unknown_classes_are_refused():
  odd = {key: value[:7] for key, value in batch().items()}
  with pytest.raises(ConfigError, match="it has 7; expected an even number"):
    data.timm_mix(odd, seeds(1)[0])
  with pytest.raises(ConfigError, match="smoothing needs num_classes"):
    data.timm_mix(batch(), seeds(1)[0], smoothing=0.1)
  smooth = data.timm_mix(batch(), seeds(1)[0], smoothing=0.1, num_classes=CLASSES)
  for mix in (data.mixup, data.cutmix, data.timm_mix):
    for mixed in (smooth, data.mixup(batch(), seeds(1)[0])):
      with pytest.raises(ConfigError, match="mixed already"):
        mix(mixed, seeds(1)[0])
