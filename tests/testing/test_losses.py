"""A loss that breaks its contract is named: the property, the input and the numbers."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses
from jaxtl.errors import ConfigError, InputError
from jaxtl.testing import check_loss
from tests.losses import reference

cross_entropy = losses.softmax_cross_entropy
# Without the properties that take time, which are tested on their own.
QUICK = dict(variants=False, derivatives=0, dtypes=(), scales=(1.0,))


def mean(logits, labels):
  return cross_entropy(logits, labels).mean()


def half_precision(logits, labels):
  return cross_entropy(logits, labels).astype(jnp.bfloat16)


def naive(logits, labels):
  t = labels if labels.ndim == 2 else jax.nn.one_hot(labels, logits.shape[-1])
  return -jnp.sum(t * jnp.log(jax.nn.softmax(logits)), axis=-1)


def square_root(logits, labels):
  return jnp.sqrt(cross_entropy(logits, labels))


def by_position(logits, labels):
  return cross_entropy(logits, labels) * (1 + jnp.arange(len(logits)))


def with_the_mean(logits, labels):
  loss = cross_entropy(logits, labels)
  return loss + loss.mean()


def with_a_favourite_class(logits, labels):
  return cross_entropy(logits + 0.1 * jnp.arange(logits.shape[-1])[None], labels)


def heavier_soft_labels(logits, labels):
  return (1.1 if labels.ndim == 2 else 1.0) * cross_entropy(logits, labels)


def squared_soft_labels(logits, labels):
  return cross_entropy(logits, labels**2 if labels.ndim == 2 else labels)


def wrong_for_two_classes(logits, labels):
  loss = cross_entropy(logits, labels)
  if labels.ndim == 1:
    return loss
  return jnp.where((labels.min(-1) == 0) & (labels.max(-1) < 1), loss + 0.5, loss)


def clipped_labels(logits, labels):
  return cross_entropy(logits, jnp.clip(labels, 0, logits.shape[-1] - 1) if labels.ndim == 1 else labels)


def all_nan_for_one(logits, labels):
  loss = cross_entropy(logits, labels)
  return jnp.where(jnp.any(jnp.isnan(loss)), jnp.nan, loss)


def refuses_nothing(logits, labels):
  try:
    return cross_entropy(logits, labels)
  except ValueError:
    return jnp.zeros(len(logits))


def refuses_with(error):
  def loss(logits, labels):
    try:
      return cross_entropy(logits, labels)
    except ValueError:
      raise error from None

  return loss


def in_its_own_dtype(logits, labels):
  if logits.dtype == jnp.float32:
    return cross_entropy(logits, labels)
  t = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  return -jnp.sum(t * jax.nn.log_softmax(logits), axis=-1).astype(jnp.float32)


def half_the_gradient(logits, labels):
  loss = cross_entropy(logits, labels)
  return 0.5 * (loss + jax.lax.stop_gradient(loss))


@jax.custom_jvp
def _with_flat_slopes(logits, labels):
  return cross_entropy(logits, labels)


@_with_flat_slopes.defjvp
def _flat_slopes(primals, tangents):
  loss = cross_entropy(*primals)
  slopes = jax.vmap(jax.grad(lambda s, y: cross_entropy(s[None], y[None])[0]))(*primals)
  return loss, jnp.sum(jax.lax.stop_gradient(slopes) * tangents[0], axis=-1)


def without_curvature(logits, labels):
  return _with_flat_slopes(logits, labels)


def on_numpy_labels(logits, labels):
  return cross_entropy(logits, labels) + (1.0 if isinstance(labels, np.ndarray) else 0.0)


def on_a_named_axis(logits, labels):
  try:
    jax.lax.axis_index("i")  # chex's name of pmap's axis
  except NameError:
    return cross_entropy(logits, labels)
  return cross_entropy(logits, labels) + 1.0


def counting():
  calls = iter(range(10**6))
  return lambda logits, labels: cross_entropy(logits, labels) + next(calls)


def violation(fn, **options):
  with pytest.raises(AssertionError) as error:
    check_loss(fn, **QUICK | options)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize(
  ("fn", "options", "said"),
  [
    (mean, {}, r"mean: one float32 for each example: .* is float32 \[\]; expected float32 \[6\]"),
    (half_precision, {}, r"one float32 for each example: .* is bfloat16 \[6\]; expected float32 \[6\]"),
    (naive, dict(scales=(1e3,)), "naive: finite value: the loss of logits of scale 1000, .* is inf at"),
    (square_root, dict(scales=(1e3,)), "finite gradient: the gradient of logits of scale 1000, .* is nan at"),
    (by_position, {}, r"permutation of the batch: .* order \[3, 1, 5, 0, 2, 4\], .* is .*; expected"),
    (with_the_mean, {}, "independence of the examples: .*; independent=False switches this off"),
    (with_a_favourite_class, {}, "permutation of the classes: .*; class_symmetric=False switches this off"),
    (losses.logit_penalty, {}, "shift invariance: the loss after 4 was added to all logits is .*; expected"),
    (heavier_soft_labels, {}, "one-hot labels: .*; soft_labels=False switches this off"),
    (squared_soft_labels, {}, "expected loss of soft labels: .*; linear_in_labels=False switches this off"),
    (wrong_for_two_classes, {}, "mixed labels: losses.mixed of two classes, .* is .*; expected"),
    (
      clipped_labels,
      {},
      "NaN for a label out of range: example 2 has the label -1 of 5 classes: its loss is ",
    ),
    (all_nan_for_one, {}, "NaN for a label out of range: example 2 .*: the loss of the others is nan at"),
    (refuses_nothing, {}, r"refusal of what does not fit: logits .* labels int\d+ \[5\] raise nothing"),
    (refuses_with(TypeError("no")), {}, r"refusal .* raise TypeError; expected ValueError \(no\)"),
    (refuses_with(ValueError("a\nb")), {}, "refusal .* raise ValueError of several lines: a b"),
    (in_its_own_dtype, dict(dtypes=("bfloat16",)), "bfloat16 in and float32 out: .* is .*; expected"),
    (counting(), dict(variants=True), "the same without jit: the loss of normal logits is .*; expected"),
    (on_numpy_labels, dict(variants=True), "the same without device: the loss of normal logits is .*; expe"),
    (on_a_named_axis, dict(variants=True), "the same with pmap: the loss of normal logits is .*; expected"),
    (half_the_gradient, dict(derivatives=1), "first derivatives: .*; derivatives=0 switches this off"),
    (without_curvature, dict(derivatives=2), "second derivatives: .*; derivatives=1 switches this off"),
  ],
)
def test_a_broken_property_is_named(fn, options, said):
  assert re.search(said, violation(fn, **options))


def test_the_line_has_the_property_the_input_and_the_numbers():
  said = violation(lambda logits, labels: cross_entropy(logits, labels) + logits[:, 0] * 0 + logits.sum(-1))
  assert re.fullmatch(
    r"<lambda>: shift invariance: the loss after 4 was added to all logits is [-\d.]+ at \[\d\]; "
    r"expected [-\d.]+ \+- [\de.-]+; shift_invariant=None switches this off",
    said,
  )


@pytest.mark.parametrize(
  ("fn", "switch"),
  [
    (with_the_mean, dict(independent=False, linear_in_labels=False, out_of_range_is_nan=False)),
    (with_a_favourite_class, dict(class_symmetric=False)),
    (losses.logit_penalty, dict(shift_invariant=None)),
    (losses.logit_penalty, dict(shift_invariant=False)),
    (heavier_soft_labels, dict(soft_labels=False)),
    (squared_soft_labels, dict(linear_in_labels=False)),
    (clipped_labels, dict(out_of_range_is_nan=False)),
    (refuses_nothing, dict(refuses=None)),
    (refuses_with(TypeError("no")), dict(refuses=TypeError)),
    (half_the_gradient, dict(derivatives=0)),
    (without_curvature, dict(derivatives=1)),
    (on_numpy_labels, dict(variants=False)),
    (in_its_own_dtype, dict(dtypes=())),
    (naive, dict(scales=(1.0,), out_of_range_is_nan=False, refuses=None)),
  ],
)
def test_a_property_that_is_not_claimed_is_not_checked(fn, switch):
  check_loss(fn, **QUICK | switch)


def test_a_claim_not_to_be_shift_invariant_is_checked():
  said = violation(cross_entropy, shift_invariant=False)
  assert "shift invariance: the loss is the same" in said
  assert "shift_invariant=False claims that it changes" in said


def test_the_largest_gradient_may_not_overflow():
  options = QUICK | dict(shift_invariant=False)
  check_loss(losses.squared_hinge, **options, gradient_up_to=1e37)
  said = violation(losses.squared_hinge, **options, gradient_up_to=2e38)
  assert "finite gradient up to the largest logits: the gradient of logits of scale 2e+38, all wrong" in said


def float64_cross_entropy(logits, labels):
  return reference.cross_entropy(logits, labels)


def test_a_loss_that_is_not_its_reference_is_named():
  check_loss(cross_entropy, **QUICK, reference=float64_cross_entropy)
  check_loss(cross_entropy, **QUICK, reference=lambda *case: float64_cross_entropy(*case)[0])
  smoothed = functools.partial(cross_entropy, label_smoothing=1e-3)
  with pytest.raises(
    AssertionError, match=r"softmax_cross_entropy: float64 reference: the loss of logits of "
  ):
    check_loss(smoothed, **QUICK, reference=float64_cross_entropy)
  with pytest.raises(
    AssertionError, match=r"float64 reference: the gradient of logits of the pattern '\w+', sc"
  ):
    check_loss(half_the_gradient, **QUICK, reference=float64_cross_entropy)


def test_a_floor_lets_the_gradient_of_a_reference_be_off():
  def nearly(logits, labels):
    loss, gradient = float64_cross_entropy(logits, labels)
    return loss, gradient + 1e-4

  check_loss(cross_entropy, **QUICK, reference=nearly, reference_floor=2e-4)
  with pytest.raises(AssertionError, match="float64 reference: the gradient"):
    check_loss(cross_entropy, **QUICK, reference=nearly)


def test_any_number_of_classes():
  for num_classes in (2, 11):
    check_loss(cross_entropy, num_classes=num_classes)


@pytest.mark.parametrize(
  ("options", "said"),
  [
    (dict(num_classes=1), "num_classes is 1; write at least 2"),
    (dict(derivatives=3), "derivatives is 3; wri"),
  ],
)
def test_what_cannot_be_checked_is_refused(options, said):
  with pytest.raises(ConfigError, match=said):
    check_loss(cross_entropy, **options)


@pytest.mark.parametrize("package", ["chex", "hypothesis"])
def test_a_missing_package_is_named(package, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  options = dict(variants=True) if package == "chex" else dict(reference=float64_cross_entropy)
  with pytest.raises(
    InputError, match=rf"^this check needs the package {package}; pip install 'jaxtl\[testi"
  ):
    check_loss(cross_entropy, **QUICK | options)


def test_the_import_needs_neither():
  code = "import sys; sys.modules.update(chex=None, hypothesis=None); import jaxtl.testing"
  subprocess.run([sys.executable, "-c", code], check=True)
