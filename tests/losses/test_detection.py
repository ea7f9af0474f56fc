"""The detection loss against hand values and a matcher and a focal loss written as loops in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxtl import boxes as geometry
from jaxtl import losses
from jaxtl.errors import ConfigError, DataError
from jaxtl.losses.detection import BACKGROUND, IGNORED
from jaxtl.models.anchors import octave_anchors
from tests.test_boxes import drawn

PRIOR_LOGIT = -np.log(99.0)


def loop_iou(a, b):
  shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
  union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
  return shared / union if union > 0 else 0.0


def loop_assign(anchors, boxes, valid, positive, negative):
  """The rule of the specification, anchor by anchor."""
  table = [[loop_iou(box, anchor) if real else -1.0 for anchor in anchors] for box, real in zip(boxes, valid)]
  assigned = []
  for place in range(len(anchors)):
    column = [row[place] for row in table]
    best = column.index(max(column))
    if column[best] >= positive:
      assigned.append(best)
    else:
      assigned.append(BACKGROUND if column[best] < negative else IGNORED)
  for number in reversed(range(len(boxes))):
    if valid[number] and max(table[number]) > 0:
      assigned[table[number].index(max(table[number]))] = number
  return assigned


def loop_focal(logits, channels, gamma, alpha):
  total = 0.0
  for row, channel in zip(np.asarray(logits, np.float64), channels):
    for k, x in enumerate(row) if channel != IGNORED else ():
      p = 1 / (1 + np.exp(-x))
      total += -alpha * (1 - p) ** gamma * np.log(p) if k == channel else 0.0
      total += -(1 - alpha) * p**gamma * np.log1p(-p) if k != channel else 0.0
  return total


@pytest.mark.parametrize("negative", [0.5, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_assignment_is_that_of_the_loop(seed, negative):
  rng = np.random.default_rng(seed)
  anchors = np.asarray(octave_anchors(3, 4, 3))
  boxes = drawn(rng, 2, 6, size=48)
  valid = rng.random((2, 6)) < 0.7
  assigned = losses.assign(anchors, boxes, valid, positive=0.5, negative=negative)
  expected = [loop_assign(anchors, b, v, 0.5, negative) for b, v in zip(boxes, valid)]
  np.testing.assert_array_equal(assigned, expected)
  assert assigned.dtype == jnp.int32


# Four anchors in a row; the second and the third are equal.
ROW = jnp.array([[0, 0, 8, 8], [0, 8, 8, 16], [0, 8, 8, 16], [0, 24, 8, 32]])


def row_assignment(boxes, valid=None, **thresholds):
  boxes = jnp.asarray(boxes, jnp.float32)[None]
  valid = jnp.ones(boxes.shape[:2], bool) if valid is None else jnp.array([valid])
  return losses.assign(ROW, boxes, valid, **thresholds)[0].tolist()


def test_an_image_without_boxes_is_background():
  assert row_assignment([[0, 0, 8, 8]], [False]) == [-1] * 4


def test_padded_boxes_may_hold_anything():
  nan = float("nan")
  assert row_assignment([[nan] * 4, [0, 0, 8, 8], [0, 24, 8, 32]], [False, True, False]) == [1, -1, -1, -1]


def test_an_anchor_exactly_at_the_threshold_is_positive():
  assert row_assignment([[0, 0, 8, 4]]) == [0, -1, -1, -1]  # IoU 0.5


def test_a_box_gets_its_best_anchor_below_the_threshold():
  # IoU with the equal anchors 16 / 64: the first one gets it, the other stays background.
  assert row_assignment([[0, 8, 8, 10]]) == [-1, 0, -1, -1]
  # Between two thresholds the other is ignored.
  assert row_assignment([[0, 8, 8, 10]], positive=0.5, negative=0.2) == [-1, 0, -2, -1]


def test_of_two_boxes_with_one_best_anchor_the_first_gets_it():
  small, smaller = [0, 24, 8, 26], [0, 24, 8, 25]
  assert row_assignment([small, smaller]) == [-1, -1, -1, 0]
  assert row_assignment([smaller, small]) == [-1, -1, -1, 0]
  # The better overlap does not count, unless it is above the threshold.
  assert row_assignment([small, [0, 24, 8, 32]]) == [-1, -1, -1, 0]


def test_of_two_equal_boxes_the_first_gets_the_anchor():
  assert row_assignment([[0, 8, 8, 16], [0, 8, 8, 16]]) == [-1, 0, 0, -1]


def test_a_box_that_overlaps_nothing_gets_nothing():
  assert row_assignment([[100, 100, 120, 120], [3, 3, 3, 3]]) == [-1] * 4


def test_huber_and_smooth_l1_by_hand():
  d = jnp.array([0.0, 0.05, -0.1, 0.3, -2.0])
  np.testing.assert_allclose(losses.huber(d), [0, 0.00125, 0.005, 0.025, 0.195], rtol=1e-5)
  np.testing.assert_allclose(losses.huber(d, delta=1.0), [0, 0.00125, 0.005, 0.045, 1.5], rtol=1e-5)
  np.testing.assert_allclose(losses.smooth_l1(d), jnp.abs(d))
  np.testing.assert_allclose(losses.smooth_l1(d, beta=0.1), losses.huber(d) / 0.1, rtol=1e-6)
  slopes = jax.vmap(jax.grad(losses.huber))(d)
  np.testing.assert_allclose(slopes, np.clip(d, -0.1, 0.1), rtol=1e-5)


def test_hand_values_of_the_focal_loss():
  logit = jnp.full((1, 1, 1), PRIOR_LOGIT)
  for gamma, background in ((1.5, 7.53775e-6), (2.0, 7.53775e-7)):
    np.testing.assert_allclose(
      losses.focal_sum(logit, jnp.array([[BACKGROUND]]), gamma=gamma), background, 1e-5
    )
  np.testing.assert_allclose(losses.focal_sum(logit, jnp.array([[0]])), 1.134066, 1e-6)
  assert losses.focal_sum(logit, jnp.array([[IGNORED]])) == 0


@pytest.mark.parametrize(("num_channels", "expected"), [(91, 26.8812), (90, 26.5921)])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_first_loss_at_640_pixels(num_channels, expected, compiled):
  """One image, one positive anchor, all logits at the prior; a sum of seven million terms."""
  logits = jnp.full((1, 76_725, num_channels), PRIOR_LOGIT, jnp.float32)
  channels = jnp.full((1, 76_725), BACKGROUND).at[0, 1234].set(7)
  total = (jax.jit(losses.focal_sum) if compiled else losses.focal_sum)(logits, channels)
  np.testing.assert_allclose(total / 2, expected, atol=1e-3)


@pytest.mark.parametrize(("gamma", "alpha"), [(1.5, 0.25), (2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
def test_the_focal_loss_is_that_of_the_loop(gamma, alpha):
  rng = np.random.default_rng(3)
  logits = 4 * rng.standard_normal((2, 7, 5)).astype(np.float32)
  channels = rng.integers(-2, 5, (2, 7))
  found = losses.focal_sum(logits, channels, gamma=gamma, alpha=alpha)
  expected = [loop_focal(*image, gamma, alpha) for image in zip(logits, channels)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-3, 100.0, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_focal_gradient_is_finite(size, sign):
  logits = jnp.full((1, 3, 2), sign * size)
  value, gradient = jax.value_and_grad(lambda x: jnp.sum(losses.focal_sum(x, jnp.array([[0, -1, -2]]))))(
    logits
  )
  assert np.isfinite(value)
  assert np.all(np.isfinite(gradient))
  assert np.all(np.asarray(gradient)[0, 2] == 0)


def test_a_channel_that_does_not_exist_is_nan():
  found = losses.focal_sum(jnp.zeros((3, 1, 4)), jnp.array([[4], [-3], [3]]))
  assert np.isnan(found).tolist() == [True, True, False]


# A batch of two images on a map of 4 x 4 cells of 8 pixels, with three boxes at most.
ANCHORS = octave_anchors(4, 4, 3)
COUNT, CHANNELS = len(ANCHORS), 4


def batch(seed=0):
  rng = np.random.default_rng(seed)
  boxes = drawn(rng, 2, 3, size=32) + np.array([0, 0, 2, 2], np.float32)
  boxes[0, 0] = 8, 8, 40, 40  # overlaps several anchors by 0.3 to 0.7
  return dict(
    logits=jnp.asarray(rng.standard_normal((2, COUNT, CHANNELS)), jnp.float32),
    codes=jnp.asarray(0.3 * rng.standard_normal((2, COUNT, 4)), jnp.float32),
    anchors=ANCHORS,
    boxes=jnp.asarray(boxes),
    labels=jnp.asarray(rng.integers(1, CHANNELS, (2, 3))),
    valid=jnp.array([[True, True, False], [True, False, False]]),
  )


def test_the_losses_are_those_of_the_loops():
  given = batch()
  found = losses.anchor_losses(**given)
  for image in range(2):
    boxes, labels = np.asarray(given["boxes"][image]), np.asarray(given["labels"][image])
    assigned = loop_assign(np.asarray(ANCHORS), boxes, given["valid"][image], 0.5, 0.5)
    channels = [labels[number] if number >= 0 else number for number in assigned]
    np.testing.assert_allclose(
      found.classes[image], loop_focal(given["logits"][image], channels, 1.5, 0.25), rtol=1e-5
    )
    total = 0.0
    for place, number in enumerate(assigned):
      if number >= 0:
        wanted = np.asarray(geometry.encode(boxes[number], ANCHORS[place]), np.float64)
        error = np.abs(np.asarray(given["codes"][image, place]) - wanted)
        total += np.mean(np.where(error <= 0.1, error**2 / 2, 0.1 * error - 0.005))
    np.testing.assert_allclose(found.boxes[image], total, rtol=1e-5)
    assert found.positives[image] == sum(number >= 0 for number in assigned) > 0


def scalar(given, **options):
  found = losses.anchor_losses(**given, **options)
  return losses.per_batch(found.classes + 50 * found.boxes, found.positives, jnp.ones(2, bool), plus=1)


@pytest.mark.parametrize(
  "options",
  [
    dict(gamma=2.0),
    dict(alpha=0.5),
    dict(error=losses.smooth_l1),
    dict(positive=0.7),
    dict(negative=0.3),
  ],
)
def test_every_option_changes_the_loss(options):
  given = batch()
  assert not np.allclose(scalar(given, **options), scalar(given), rtol=1e-6)


def test_compiled_and_one_by_one_it_is_the_same():
  given = batch()
  whole = losses.anchor_losses(**given)
  compiled = jax.jit(losses.anchor_losses)(*given.values())
  for part in range(2):
    one = {name: x if name == "anchors" else x[part : part + 1] for name, x in given.items()}
    alone = losses.anchor_losses(**one)
    for a, b, c in zip(whole, compiled, alone):
      np.testing.assert_allclose(b[part], a[part], rtol=1e-6)
      np.testing.assert_allclose(c[0], a[part], rtol=1e-6)


def test_vmap_over_images_is_the_batch():
  given = batch()
  rest = {name: x for name, x in given.items() if name != "anchors"}

  def one(image):
    found = losses.anchor_losses(anchors=ANCHORS, **{name: x[None] for name, x in image.items()})
    return jax.tree.map(lambda x: x[0], found)

  for a, b in zip(jax.vmap(one)(rest), losses.anchor_losses(**given)):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_bfloat16_outputs_give_a_float32_loss_of_the_same_numbers():
  given = batch()
  half = {name: x.astype(jnp.bfloat16) if name in ("logits", "codes") else x for name, x in given.items()}
  exact = {name: x.astype(jnp.float32) if name in ("logits", "codes") else x for name, x in half.items()}
  for a, b in zip(losses.anchor_losses(**half), losses.anchor_losses(**exact)):
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, rtol=1e-6)
  gradient = jax.grad(lambda x: jnp.sum(scalar({**half, "logits": x})))(half["logits"])
  assert gradient.dtype == jnp.bfloat16


def test_the_gradient_is_that_of_differences():
  given = batch()

  def loss(logits, codes):
    return jnp.mean(scalar({**given, "logits": logits, "codes": codes}))

  check_grads(loss, (given["logits"], given["codes"]), order=1, modes=["rev"], rtol=0.02, eps=1e-2)


def test_padding_of_the_boxes_changes_nothing():
  given = batch()
  wider = given | dict(
    boxes=jnp.pad(given["boxes"], ((0, 0), (0, 5), (0, 0))),
    labels=jnp.pad(given["labels"], ((0, 0), (0, 5)), constant_values=-1),
    valid=jnp.pad(given["valid"], ((0, 0), (0, 5))),
  )
  for a, b in zip(losses.anchor_losses(**wider), losses.anchor_losses(**given)):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_an_image_without_boxes_costs_only_its_background():
  given = batch() | dict(valid=jnp.zeros((2, 3), bool))
  found = losses.anchor_losses(**given)
  assert found.boxes.tolist() == found.positives.tolist() == [0, 0]
  background = losses.focal_sum(given["logits"], jnp.full((2, COUNT), BACKGROUND))
  np.testing.assert_allclose(found.classes, background, rtol=1e-6)
  slope = jax.grad(lambda x: jnp.sum(losses.anchor_losses(**{**given, "codes": x}).boxes))(given["codes"])
  assert np.all(np.asarray(slope) == 0)


def test_a_label_outside_the_channels_is_nan():
  for label in (-1, -2, CHANNELS):
    given = batch() | dict(labels=jnp.full((2, 3), label))
    assert np.all(np.isnan(losses.anchor_losses(**given).classes)), label


def test_normalisers_by_hand():
  sums, weights, mask = (
    jnp.array([6.0, 2.0, jnp.nan]),
    jnp.array([3.0, 0.0, 9.0]),
    jnp.array([True, True, False]),
  )
  np.testing.assert_allclose(losses.per_image(sums, weights)[:2], [2, 2])
  found = losses.per_batch(sums, weights, mask, plus=1)
  np.testing.assert_allclose(found, [3, 1, 0])  # (6 + 2) / (3 + 1) is their mean over two images
  np.testing.assert_allclose(losses.per_batch(sums, weights, mask), [4, 4 / 3, 0])
  assert losses.per_batch(sums[:1], jnp.zeros(1), mask[:1]).tolist() == [6]  # no weight at all


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda: losses.huber(jnp.zeros(1), delta=0), ConfigError, "delta is 0; write a finite number above 0"),
    (lambda: losses.smooth_l1(jnp.zeros(1), beta=-1), ConfigError, "beta is -1"),
    (lambda: losses.focal_sum(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2), int), gamma=-1), ConfigError, "gamma"),
    (lambda: losses.focal_sum(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2), int), alpha=2), ConfigError, "alpha"),
    (lambda: losses.focal_sum(jnp.zeros((2, 3)), jnp.zeros(2, int)), DataError, r"expected \[B, A, C\]"),
    (lambda: losses.anchor_losses(**batch(), positive=0.3), ConfigError, "0 <= negative <= positive"),
    (lambda: losses.anchor_losses(**batch() | dict(boxes=jnp.zeros((2, 3)))), DataError, r"\[B, N, 4\]"),
    (lambda: losses.anchor_losses(**batch() | dict(labels=jnp.zeros((2, 4)))), DataError, "one for each box"),
  ],
)
def test_bad_input_is_one_line(call, error, message):
  with pytest.raises(error, match=message):
    call()


def test_sharded_over_devices_it_is_the_same():
  given = batch()
  mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
  spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  there = {name: x if name == "anchors" else jax.device_put(x, spread) for name, x in given.items()}
  found = jax.jit(functools.partial(scalar))(there)
  np.testing.assert_allclose(found, scalar(given), rtol=1e-6)
