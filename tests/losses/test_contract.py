"""What every public loss promises. Losses are found by their signature: a new one is tested at once."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxtl import losses
from jaxtl.errors import DataError

BATCH, CLASSES = 6, 5
REQUIRED = {"margin": 7.0}  # a value for each hyperparameter that has no default
KINKED = {"multiclass_hinge", "squared_hinge"}  # their second derivative does not exist everywhere
SHIFT_INVARIANT = {
  "grouped_cross_entropy",
  "cosine_softmax",
  "multiclass_hinge",
  "multiclass_smoothed_hinge",
  "poly1",
  "softmax_cross_entropy",
}


def _classification_losses():
  for name in losses.__all__:
    parameters = inspect.signature(getattr(losses, name)).parameters.values()
    if [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == ["logits", "labels"]:
      required = {
        p.name: REQUIRED[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty
      }
      yield pytest.param(functools.partial(getattr(losses, name), **required), name, id=name)


LOSSES = list(_classification_losses())
every_loss = pytest.mark.parametrize(("loss", "name"), LOSSES)


def case(scale=2.0, seed=0):
  rng = np.random.default_rng(seed)
  logits = jnp.asarray(scale * rng.standard_normal((BATCH, CLASSES)), jnp.float32)
  soft = jnp.asarray(rng.dirichlet(np.ones(CLASSES), BATCH), jnp.float32)
  return logits, jnp.asarray(rng.integers(0, CLASSES, BATCH)), soft


def value_and_gradient(loss, logits, labels):
  value, pullback = jax.vjp(lambda s: loss(s, labels), logits)
  return value, pullback(jnp.ones_like(value))[0]


compiled = jax.jit(value_and_gradient, static_argnums=0)


def compiled_value(loss, logits, labels):
  return compiled(loss, logits, labels)[0]  # with the gradient, so that one compilation serves all tests


def test_the_battery_finds_the_public_losses():
  found = {parameter.id for parameter in LOSSES}
  assert SHIFT_INVARIANT | KINKED | {"focal", "logit_norm", "logit_penalty"} <= found <= set(losses.__all__)


@every_loss
def test_one_value_for_each_example(loss, name):
  logits, labels, soft = case()
  for target in (labels, soft):
    value = compiled_value(loss, logits, target)
    assert value.shape == (BATCH,)
    assert value.dtype == jnp.float32


@every_loss
@pytest.mark.parametrize("kind", ["classes", "distribution"])
def test_value_and_gradient_are_finite(loss, name, kind):
  rng = np.random.default_rng(0)
  signs = rng.choice([-1.0, 1.0], (BATCH, CLASSES))
  _, labels, soft = case()
  right = 2.0 * (np.arange(CLASSES)[None, :] == np.asarray(labels)[:, None]) - 1
  # Zeros, ties at the ends of what training meets, all wrong, all right, and small numbers.
  for logits in (
    0 * signs,
    1e3 * signs,
    1e3 * right,
    -1e3 * right,
    1e-20 * signs,
    case(1e3)[0],
    1e18 * signs,
  ):
    for value in compiled(loss, jnp.float32(logits), labels if kind == "classes" else soft):
      assert np.all(np.isfinite(value))


@every_loss
def test_gradient_stays_finite_up_to_the_largest_logits(loss, name):
  _, labels, _ = case()
  right = 2.0 * (np.arange(CLASSES)[None, :] == np.asarray(labels)[:, None]) - 1
  largest = 1e38 if name != "squared_hinge" else 1e37  # its slope is 2 s for each class
  for logits in (largest * right, -largest * right):
    assert np.all(np.isfinite(compiled(loss, jnp.float32(logits), labels)[1]))


@every_loss
def test_permuting_the_batch_permutes_the_losses(loss, name):
  logits, labels, soft = case()
  order = np.array([3, 1, 5, 0, 2, 4])
  for target in (labels, soft):
    expected = compiled_value(loss, logits, target)[order]
    found = compiled_value(loss, logits[order], target[order])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@every_loss
def test_derivatives_agree_with_differences(loss, name):
  logits, labels, soft = case(scale=1.0, seed=4)
  check = functools.partial(check_grads, args=(logits,), order=1, eps=1e-3, rtol=0.03, atol=0.03)
  check(jax.jit(lambda s: (loss(s, labels), loss(s, soft))), modes=["fwd", "rev"])
  if name not in KINKED:  # the second order, forward and reverse over reverse, as Hessian products take it
    check(jax.jit(jax.grad(lambda s: loss(s, labels).sum())), modes=["fwd", "rev"])


@every_loss
def test_compiled_equals_not_compiled(loss, name):
  logits, labels, _ = case()
  for found, expected in zip(
    compiled(loss, logits, labels),
    value_and_gradient(loss, logits, labels),
    strict=True,
  ):
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


@every_loss
def test_bfloat16_logits_are_computed_in_float32(loss, name):
  logits, labels, _ = case()
  logits = logits.astype(jnp.bfloat16)
  value, gradient = compiled(loss, logits, labels)
  expected_value, expected_gradient = compiled(loss, logits.astype(jnp.float32), labels)
  assert value.dtype == jnp.float32
  np.testing.assert_array_equal(value, expected_value)
  np.testing.assert_array_equal(gradient, expected_gradient.astype(jnp.bfloat16))


@every_loss
def test_one_hot_distribution_equals_its_class(loss, name):
  logits, labels, _ = case()
  one_hot = jax.nn.one_hot(labels, CLASSES)
  found, expected = compiled_value(loss, logits, one_hot), compiled_value(loss, logits, labels)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@every_loss
def test_distribution_is_the_expected_loss(loss, name):
  logits, _, soft = case()
  expected = sum(soft[:, c] * compiled_value(loss, logits, jnp.full(BATCH, c)) for c in range(CLASSES))
  np.testing.assert_allclose(compiled_value(loss, logits, soft), expected, rtol=1e-5, atol=1e-6)


@every_loss
def test_mixed_labels_are_the_mixed_distribution(loss, name):
  logits, labels, _ = case()
  labels_b, weight = (labels + 1) % CLASSES, jnp.linspace(0, 1, BATCH)
  one_hot, one_hot_b = jax.nn.one_hot(labels, CLASSES), jax.nn.one_hot(labels_b, CLASSES)
  distribution = weight[:, None] * one_hot + (1 - weight)[:, None] * one_hot_b
  mixed = losses.mixed(functools.partial(compiled_value, loss), logits, labels, labels_b, weight)
  np.testing.assert_allclose(mixed, compiled_value(loss, logits, distribution), rtol=1e-5, atol=1e-6)


@every_loss
def test_label_outside_the_classes_is_nan_for_that_example_alone(loss, name):
  logits, labels, _ = case()
  for wrong in (-1, CLASSES, 2**31 - 1, -(2**31)):
    value = compiled_value(loss, logits, labels.at[2].set(wrong))
    assert list(np.isnan(value)) == [False, False, True, False, False, False]


@every_loss
def test_labels_that_do_not_fit_are_refused(loss, name):
  logits, labels, soft = case()
  for bad_logits, bad_labels in [
    (logits, labels[:-1]),
    (logits, soft[:, :-1]),
    (logits[0], labels),
    (labels, labels),
  ]:
    with pytest.raises(DataError) as error:
      loss(bad_logits, bad_labels)
    assert "\n" not in str(error.value)


@every_loss
def test_adding_a_constant_to_all_logits(loss, name):
  logits, labels, _ = case()
  shifted, value = compiled_value(loss, logits + 4.0, labels), compiled_value(loss, logits, labels)
  same = np.allclose(shifted, value, rtol=1e-5, atol=1e-5)
  assert same == (name in SHIFT_INVARIANT)
