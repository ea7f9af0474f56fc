"""Suppression against a loop over sorted boxes, and post-processing class by class."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import boxes as geometry
from jaxtl import metrics
from jaxtl.errors import ConfigError, DataError
from tests.losses.test_detection import loop_iou
from tests.test_boxes import drawn


def loop_nms(boxes, scores, groups, threshold, most):
  """Sorted by score; a box stays if no better one of its group that stays overlaps it more."""
  kept = []
  for i in np.argsort(-scores, kind="stable"):
    if all(groups[i] != groups[j] or loop_iou(boxes[i], boxes[j]) <= threshold for j in kept):
      kept.append(i)
  return kept[:most]


def loop_soft_nms(boxes, scores, groups, sigma, least, most):
  rest, kept = {i: float(s) for i, s in enumerate(scores)}, []
  while rest and len(kept) < most:
    best = max(rest, key=lambda i: (rest[i], -i))
    kept.append((best, rest.pop(best)))
    for i in list(rest):
      if groups[i] == groups[best]:
        rest[i] *= np.exp(-(loop_iou(boxes[i], boxes[best]) ** 2) / sigma)
        if rest[i] < least:
          del rest[i]
  return kept


def case(seed, count=200, num_groups=3):
  rng = np.random.default_rng(seed)
  boxes = drawn(rng, count, size=100) + np.array([0, 0, 8, 8], np.float32)
  return boxes, rng.random(count).astype(np.float32), rng.integers(0, num_groups, count)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_nms_keeps_what_the_loop_keeps(seed, threshold):
  boxes, scores, groups = case(seed, 300)
  kept = metrics.nms(boxes, scores, jnp.asarray(groups), threshold=threshold, max_outputs=300)
  expected = loop_nms(boxes, scores, groups, threshold, 300)
  assert kept.indices[: len(expected)].tolist() == expected
  assert np.all(np.asarray(kept.indices)[len(expected) :] == -1)
  np.testing.assert_array_equal(kept.scores[: len(expected)], scores[expected])
  assert 10 < len(expected) < 290


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_nms_of_a_thousand_boxes_is_that_of_the_loop(seed):
  boxes, scores, groups = case(seed, 1000, 5)
  kept = metrics.nms(boxes, scores, jnp.asarray(groups), max_outputs=1000)
  expected = loop_nms(boxes, scores, groups, 0.5, 1000)
  assert [i for i in kept.indices.tolist() if i >= 0] == expected


def test_nms_by_hand():
  boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [20, 20, 30, 30]])
  scores, groups = jnp.array([0.5, 0.9, 0.8, -jnp.inf]), jnp.zeros(4, int)
  # IoU of the second with the first is 0.9, with the third 5 / 9; the fourth is no candidate.
  assert metrics.nms(boxes, scores, groups, max_outputs=3).indices.tolist() == [1, -1, -1]
  assert metrics.nms(boxes, scores, groups, threshold=0.6, max_outputs=3).indices.tolist() == [1, 2, -1]
  assert metrics.nms(boxes, scores, jnp.arange(4), max_outputs=3).indices.tolist() == [1, 2, 0]
  assert metrics.nms(boxes, scores, jnp.arange(4), max_outputs=2).indices.tolist() == [1, 2]


def test_a_box_exactly_at_the_threshold_stays():
  boxes = jnp.array([[0, 0, 8, 8], [0, 0, 8, 4]])
  assert metrics.nms(boxes, jnp.array([0.9, 0.8]), jnp.zeros(2, int), max_outputs=2).indices.tolist() == [
    0,
    1,
  ]


def test_of_equal_scores_the_first_comes_first():
  boxes = jnp.array([[0, 0, 8, 8], [0, 0, 8, 8], [30, 0, 38, 8]])
  kept = metrics.nms(boxes, jnp.full(3, 0.5), jnp.zeros(3, int), max_outputs=3)
  assert kept.indices.tolist() == [0, 2, -1]


@pytest.mark.parametrize("sigma", [0.3, 0.5])
@pytest.mark.parametrize("seed", range(2))
def test_soft_nms_is_that_of_the_loop(seed, sigma):
  boxes, scores, groups = case(seed, 80)
  kept = metrics.soft_nms(boxes, scores, jnp.asarray(groups), sigma=sigma, min_score=0.02, max_outputs=80)
  expected = loop_soft_nms(boxes, scores, groups, sigma, 0.02, 80)
  assert kept.indices[: len(expected)].tolist() == [i for i, _ in expected]
  np.testing.assert_allclose(kept.scores[: len(expected)], [s for _, s in expected], rtol=1e-4)
  assert len(expected) < 80


def test_soft_nms_by_hand():
  boxes = jnp.array([[0, 0, 8, 8], [0, 0, 8, 4]])  # IoU 0.5
  kept = metrics.soft_nms(boxes, jnp.array([0.9, 0.8]), jnp.zeros(2, int), max_outputs=2)
  np.testing.assert_allclose(kept.scores, [0.9, 0.8 * np.exp(-0.25 / 0.3)], rtol=1e-6)


def test_suppression_is_the_same_compiled_and_over_a_batch():
  cases = [case(seed, 60) for seed in range(3)]
  boxes, scores, groups = (jnp.stack(parts) for parts in zip(*cases))
  for suppress in (metrics.nms, metrics.soft_nms):
    one = functools.partial(suppress, max_outputs=20)
    together = jax.jit(jax.vmap(one))(boxes, scores, groups)
    for image in range(3):
      alone = one(boxes[image], scores[image], groups[image])
      np.testing.assert_array_equal(together.indices[image], alone.indices)
      np.testing.assert_allclose(together.scores[image], alone.scores, rtol=1e-6)


# Outputs of a detector on two images: 40 anchors, a channel that is not used, three classes.
def outputs(seed=0, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  anchors = drawn(rng, 40, size=60) + np.array([0, 0, 8, 8], np.float32)
  return dict(
    logits=jnp.asarray(2 * rng.standard_normal((2, 40, 4)) - 1, dtype),
    codes=jnp.asarray(0.2 * rng.standard_normal((2, 40, 4)), dtype),
    anchors=jnp.asarray(anchors),
    limits=jnp.array([[64.0, 64.0], [50.0, 40.0]]),
  )


def loop_detections(given, image, *, first_class, min_score, most):
  """Class by class, then the best over all classes."""
  boxes = geometry.clip(geometry.decode(given["codes"][image], given["anchors"]), given["limits"][image])
  boxes, found = np.asarray(boxes), []
  probability = 1 / (1 + np.exp(-np.asarray(given["logits"][image], np.float64)))
  for channel in range(first_class, probability.shape[-1]):
    scores = probability[:, channel]
    good = np.flatnonzero(scores > min_score)
    kept = loop_nms(boxes[good], scores[good], np.zeros(len(good)), 0.5, most)
    found += [(scores[good[i]], channel - first_class, tuple(boxes[good[i]])) for i in kept]
  return sorted(found, key=lambda row: -row[0])[:most]


@pytest.mark.parametrize(("first_class", "min_score"), [(1, 0.05), (0, 0.05), (1, 0.6)])
def test_detections_are_those_of_the_loop_over_classes(first_class, min_score):
  given = outputs()
  found = metrics.detections(**given, first_class=first_class, min_score=min_score, max_outputs=25)
  for image in range(2):
    expected = loop_detections(given, image, first_class=first_class, min_score=min_score, most=25)
    count = len(expected)
    assert found.valid[image].tolist() == [True] * count + [False] * (25 - count)
    np.testing.assert_allclose(found.scores[image, :count], [row[0] for row in expected], rtol=1e-5)
    assert found.classes[image, :count].tolist() == [row[1] for row in expected]
    np.testing.assert_allclose(found.boxes[image, :count], [row[2] for row in expected], atol=1e-4)
    assert np.all(np.asarray(found.boxes[image, count:]) == 0)
    assert np.all(np.asarray(found.classes[image, count:]) == -1)


def test_perfect_outputs_give_the_boxes_back():
  """Logits that name the class of each anchor's box, and codes that hit it."""
  rng = np.random.default_rng(5)
  given = outputs()
  anchors = given["anchors"]
  truth = np.array([[4, 4, 20, 24], [30, 10, 60, 50]], np.float32)
  owner = rng.integers(0, 2, 40)
  codes = geometry.encode(truth[owner], anchors)
  logits = np.full((40, 4), -9.0)
  logits[np.arange(40), np.array([1, 3])[owner]] = 5
  found = metrics.detections(
    jnp.array([logits]), codes[None], anchors, jnp.array([[64.0, 64.0]]), max_outputs=5
  )
  assert found.valid[0].tolist() == [True, True, False, False, False]
  order = np.argsort(found.classes[0, :2])
  np.testing.assert_allclose(found.boxes[0, :2][order], truth, atol=1e-3)
  assert found.classes[0, :2][order].tolist() == [0, 2]


@pytest.mark.parametrize(
  "options",
  [
    dict(first_class=0),
    dict(min_score=0.5),
    dict(candidates=5),
    dict(max_outputs=7),
    dict(suppress=metrics.soft_nms),
    dict(legacy=True),
  ],
)
def test_every_option_changes_the_detections(options):
  plain, other = metrics.detections(**outputs()), metrics.detections(**outputs(), **options)
  same = plain.boxes.shape == other.boxes.shape and all(np.allclose(a, b) for a, b in zip(plain, other))
  assert not same


def test_boxes_end_with_the_image():
  given = outputs()
  found = metrics.detections(**given)
  assert np.all(np.asarray(found.boxes[1]) <= [50, 40, 50, 40])
  assert np.max(found.boxes[0]) > 50


def test_bfloat16_outputs_and_compilation():
  given = outputs(dtype=jnp.bfloat16)
  found = jax.jit(metrics.detections)(*given.values())
  assert found.boxes.dtype == found.scores.dtype == jnp.float32
  exact = metrics.detections(**{name: x.astype(jnp.float32) for name, x in given.items()})
  for a, b in zip(found, exact):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (
      lambda: metrics.nms(*case(0), threshold=1.5),
      ConfigError,
      "threshold is 1.5; write a number from 0 to 1",
    ),
    (lambda: metrics.soft_nms(*case(0), sigma=0), ConfigError, "sigma is 0; write a finite number above 0"),
    (
      lambda: metrics.nms(*case(0), max_outputs=0),
      ConfigError,
      "max_outputs must be an integer of at least 1",
    ),
    (lambda: metrics.nms(*case(0)[:2], jnp.zeros(3)), DataError, r"groups \[3\]; expected \[N, 4\]"),
    (lambda: metrics.detections(**outputs(), first_class=4), ConfigError, "a channel from 0 to 3"),
    (lambda: metrics.detections(**outputs(), candidates=0), ConfigError, "candidates must be an integer"),
    (
      lambda: metrics.detections(**outputs() | dict(anchors=jnp.zeros((9, 4)))),
      DataError,
      r"anchors \[9, 4\]",
    ),
  ],
)
def test_bad_input_is_one_line(call, error, message):
  with pytest.raises(error, match=message):
    call()
