"""A model that breaks its contract is named: the property, the block or feature, and the numbers."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from jaxtl.testing import check_model
from tests.testing.tiny_model import tiny_model

MODEL = tiny_model()


def broken(change):
  """The tiny model with its result given to `change(features, batch_stats, **options)`."""

  def apply(params, batch_stats, images, **options):
    return change(*MODEL.apply(params, batch_stats, images, **options), **options)

  return dataclasses.replace(MODEL, apply=apply)


def of_features(change):
  return broken(lambda features, after, **_: (change(features), after))


def of_logits(change):
  return of_features(lambda f: f | {"logits": change(f["logits"])} if "logits" in f else f)


def zero_slope_is_nan(logits):
  return logits + jnp.sqrt(jnp.sum((0 * logits) ** 2))


def counting():
  calls = iter(range(10**6))
  return of_logits(lambda logits: logits * (1 + next(calls)))


def without_start(params, batch_stats, images, **options):
  """Skips nothing where a hidden state enters at the third block."""
  if options.get("start") == "stage3":
    options["start"] = "stage2"
  return MODEL.apply(params, batch_stats, images, **options)


def no_logits_from_the_head(features, after, start=None, **_):
  return ({k: v for k, v in features.items() if k != "logits"} if start == "head" else features), after


def violation(model, **options):
  with pytest.raises(AssertionError) as error:
    check_model(model, **dict(num_classes=3, image_size=8) | options)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize(
  ("model", "options", "said"),
  [
    (object(), {}, "object: a Model: it is not a jaxtl.types.Model"),
    (
      dataclasses.replace(MODEL, blocks=("stem", *MODEL.blocks)),
      {},
      "tiny: blocks: the set of top-level keys of params is .*; expected .*'stem'",
    ),
    (
      broken(lambda f, s, train=False, **_: (f, jax.tree.map(lambda x: x[:2], s) if train else s)),
      {},
      r"form of the statistics: the statistics after training stage1/mean is .* \[2\]; expected .* \[4\]",
    ),
    (of_features(lambda f: f | {"debug": f["pooled"]}), {}, "features: the set of features is .*'debug'"),
    (
      MODEL,
      dict(stages=4),
      r"features: it has the stages \['stage1', 'stage2', 'stage3'\]; expected at least 4",
    ),
    (
      of_features(lambda f: f | {"stage2": f["stage2"][:, 0, 0]}),
      {},
      r"features: stage2 is float32 \[4, 4\]; expected \[B, H, W, C\]",
    ),
    (
      MODEL,
      dict(num_classes=5),
      r"shape of the logits: the shape of the logits is \(4, 3\); expected \(4, 5\)",
    ),
    (of_features(lambda f: f | {"pooled": f["logits"]}), {}, r"shape of the logits: the shape of pooled"),
    (of_logits(lambda x: x / 0), {}, r"finite features: the feature logits is -?inf at \[0, 0\]"),
    (
      broken(lambda f, s, train=False, **_: (f, s if train else jax.tree.map(lambda x: x + 1, s))),
      {},
      r"unchanged statistics in evaluation: the statistics stage1/mean is 1 at \[0\]; expected 0",
    ),
    (
      of_logits(lambda x: x - x[:1]),
      {},
      r"independence of the examples: the logits of images in the order \[2, 0, 3, 1\] is .*; expected",
    ),
    (counting(), dict(evaluation=False), "the same without jit: the loss in training is .*; expected"),
    (of_logits(zero_slope_is_nan), {}, r"finite gradient: the gradient of head/kernel is nan at \[0, 0\]"),
    (
      of_logits(jax.lax.stop_gradient),
      {},
      "gradient of the head: the gradient of head/kernel is zero everywhere",
    ),
    (
      dataclasses.replace(MODEL, apply=without_start),
      {},
      r"prefix and suffix: \w+ of the suffix from stage3 is .* at \[0, .*\]; expected",
    ),
    (
      broken(no_logits_from_the_head),
      {},
      r"prefix and suffix: the suffix from head has no logits, but \['pool",
    ),
  ],
)
def test_a_broken_property_is_named(model, options, said):
  assert re.search(said, violation(model, **options))


@pytest.mark.parametrize(
  ("model", "switch"),
  [
    (of_logits(lambda x: x - x[:1]), dict(evaluation=False, training=False, cuts=False)),
    (of_logits(lambda x: x - x[:1]), dict(evaluation=False, training=False)),
    (of_logits(jax.lax.stop_gradient), dict(training=False)),
    (dataclasses.replace(MODEL, apply=without_start), dict(cuts=False)),
    (MODEL, dict(stages=0)),
    (dataclasses.replace(MODEL, blocks=("stem", *MODEL.blocks)), dict(form=False, cuts=False)),
  ],
)
def test_a_property_that_is_not_claimed_is_not_checked(model, switch):
  check_model(model, num_classes=3, image_size=8, **switch)


def test_given_variables_are_used():
  params, batch_stats = MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  damaged = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
  check_model(MODEL, num_classes=3, image_size=8, variables=(params, batch_stats))
  assert "finite features: the feature logits is nan" in violation(MODEL, variables=(damaged, batch_stats))
