"""The contract of a classification loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import losses
from jaxtl.errors import ConfigError
from jaxtl.testing.claims import Claim, describe, from_extra, name_of
from jaxtl.testing.reference import Reference, check_against, over_logits
from jaxtl.testing.variants import over_variants
from jaxtl.types import Array

Loss = Callable[[Array, Array], Array]

BATCH = 6
SHUFFLED = np.array([3, 1, 5, 0, 2, 4])
SHIFT = 4.0


@dataclasses.dataclass(frozen=True)
class _LossCase:
  """A loss under test and ordinary inputs for it.

  Attributes:
    fn, num_classes: as in `check_loss`.
    logits: float32 [B, K].
    labels: int [B].
    soft: float32 [B, K], distributions; None for a loss of integer labels alone.
    value_and_gradient: (logits, labels) -> losses [B] and their gradients [B, K].
    compiled: the same, compiled.
  """

  fn: Loss
  num_classes: int
  logits: Array
  labels: Array
  soft: Array | None
  value_and_gradient: Callable[[Any, Any], tuple[Array, Array]]
  compiled: Callable[[Any, Any], tuple[Array, Array]]

  def claim(self, name: str, unless: str = "") -> Claim:
    return Claim(name_of(self.fn), name, unless)

  def value(self, logits: Any, labels: Any) -> Array:
    return self.compiled(logits, labels)[0]  # with the gradient, so that one compilation serves all checks

  @property
  def targets(self) -> dict[str, Array]:
    integer = {"integer labels": self.labels}
    return integer if self.soft is None else integer | {"soft labels": self.soft}


def check_loss(
  fn: Loss,
  *,
  num_classes: int = 5,
  scales: Sequence[float] = (1e-3, 1.0, 1e3),
  gradient_up_to: float | None = None,
  independent: bool = True,
  class_symmetric: bool = True,
  shift_invariant: bool | None = True,
  derivatives: int = 2,
  variants: bool = True,
  dtypes: Sequence[str] = ("bfloat16", "float16"),
  soft_labels: bool = True,
  linear_in_labels: bool = True,
  out_of_range_is_nan: bool = True,
  refuses: type[Exception] | None = ValueError,
  reference: Reference | None = None,
  reference_rtol: float = 1e-5,
  reference_floor: float = 0.0,
) -> None:
  """Checks that a classification loss keeps the contract of `jaxtl.losses`.

  The defaults are that contract: of a loss like the softmax cross-entropy, which is defined by differences of
  logits, treats all classes alike, is linear in its labels and has two derivatives. Each keyword says what a
  loss that claims less gives.

  Args:
    fn: (logits float [B, K], labels int [B] or float [B, K]) -> float32 [B]; hyperparameters are bound, by
      `functools.partial` or a lambda.
    num_classes: K, at least 2.
    scales: sizes of the logits for which value and gradient are finite: normal ones, ties, all right and all
      wrong. 1e-3 to 1e3 is what training meets.
    gradient_up_to: size of the logits up to which the gradient stays finite though the value may overflow.
      None, the default, asks nothing beyond `scales`.
    independent: an example's loss depends on that example alone, since padded rows must not count. False for
      a contrastive loss.
    class_symmetric: renaming the classes renames the gradient. False for a loss with weights or groups of
      classes.
    shift_invariant: a constant added to all logits changes nothing. False asserts that it does, for a loss of
      scores that do not enter a softmax, such as those of a sigmoid loss; None asserts neither.
    derivatives: how many orders agree with differences. 1 for a loss with kinks, such as a hinge; 0 for one
      that stops a gradient on purpose.
    variants: compiled, not compiled, of NumPy arrays and on each device, the loss is the same. False for a
      loss that cannot be traced as it is.
    dtypes: of logits that give the float32 loss of the same numbers and a gradient of their own type. Empty
      for a loss that takes float32 alone.
    soft_labels: the labels may be distributions. False leaves out all that follows from it.
    linear_in_labels: the loss of a distribution is the expected loss, and `losses.mixed` of two classes is
      the loss of their mixture, as mixup and cutmix assume. False for a loss that weighs its labels
      otherwise.
    out_of_range_is_nan: a label outside [0, K) makes its example NaN and no other, since nothing can be
      raised under `jit`. False for a loss that defines it otherwise, for example to ignore a class of -1.
    refuses: what logits and labels of shapes and types that do not fit raise, in one line; `jaxtl.losses`
      raises a DataError, which is a ValueError. None for a loss that does not look.
    reference: (logits, labels int [B]) -> losses [B] or (losses, gradients [B, K]) in float64, as NumPy
      arrays; compared on logits of scales 1e-3 to 1e3 that hypothesis draws. None, the default, compares with
      nothing.
    reference_rtol: allowed relative difference from the reference.
    reference_floor: allowed absolute difference of the gradient, for one whose parts cancel.

  Raises:
    AssertionError: the loss breaks the contract; one line says which property, for which input, with which
      numbers.
    ConfigError: there are fewer than two classes, or another number of derivatives than 0, 1 or 2.
    InputError: chex, or hypothesis with a reference, is not installed.
  """
  if derivatives not in (0, 1, 2):
    raise ConfigError(f"derivatives is {derivatives}; write 0, 1 or 2")
  case = _case(fn, num_classes, soft_labels)
  _one_float32_for_each_example(case)
  _finite(case, scales)
  _permuted_batch(case)
  if gradient_up_to is not None:
    _finite_gradient(case, gradient_up_to)
  if independent:
    _independent_examples(case)
  if class_symmetric:
    _permuted_classes(case)
  if shift_invariant is not None:
    _shifted(case, shift_invariant)
  if variants:
    _same_in_every_variant(case)
  for dtype in dtypes:
    _computed_in_float32(case, dtype)
  if soft_labels:
    _one_hot(case)
  if soft_labels and linear_in_labels:
    _expected_loss(case)
    _mixed(case)
  if out_of_range_is_nan:
    _out_of_range(case)
  if refuses is not None:
    _refused(case, refuses)
  if derivatives:
    _derivatives(case, derivatives)
  if reference is not None:
    _agrees_with(case, reference, reference_rtol, reference_floor)


def _case(fn: Loss, num_classes: int, soft_labels: bool) -> _LossCase:
  if num_classes < 2:
    raise ConfigError(f"num_classes is {num_classes}; write at least 2")
  logits, labels, soft = _ordinary(num_classes)

  def value_and_gradient(logits: Array, labels: Array) -> tuple[Array, Array]:
    value, pullback = jax.vjp(lambda s: fn(s, labels), jnp.asarray(logits))
    return value, pullback(jnp.ones_like(value))[0]

  compiled = jax.jit(value_and_gradient)
  return _LossCase(
    fn, num_classes, logits, labels, soft if soft_labels else None, value_and_gradient, compiled
  )


def _ordinary(num_classes: int, *, scale: float = 2.0, seed: int = 0) -> tuple[Array, Array, Array]:
  """Normal logits [B, K], labels [B] and distributions [B, K]."""
  rng = np.random.default_rng(seed)
  logits = jnp.asarray(scale * rng.standard_normal((BATCH, num_classes)), jnp.float32)
  soft = jnp.asarray(rng.dirichlet(np.ones(num_classes), BATCH), jnp.float32)
  return logits, jnp.asarray(rng.integers(0, num_classes, BATCH)), soft


def _one_float32_for_each_example(case: _LossCase) -> None:
  for kind, labels in case.targets.items():
    value = jax.eval_shape(case.fn, case.logits, labels)
    case.claim("one float32 for each example").equal(
      describe(value), f"float32 [{BATCH}]", f"the loss of logits {describe(case.logits)} with {kind}"
    )


def _patterns(case: _LossCase, scale: float) -> Iterator[tuple[str, np.ndarray]]:
  shape = (BATCH, case.num_classes)
  yield "ties in random signs", scale * np.random.default_rng(0).choice([-1.0, 1.0], shape)
  yield "all right", scale * _right(case)
  yield "all wrong", -scale * _right(case)
  yield "normal", np.asarray(_ordinary(case.num_classes, scale=scale)[0])


def _right(case: _LossCase) -> np.ndarray:
  """[B, K]: 1 at the true class and -1 elsewhere."""
  return 2.0 * (np.arange(case.num_classes)[None, :] == np.asarray(case.labels)[:, None]) - 1


def _finite(case: _LossCase, scales: Sequence[float]) -> None:
  inputs = {"logits of 0": 0 * _right(case)}
  for scale in scales:
    inputs |= {f"logits of scale {scale:g}, {name}": logits for name, logits in _patterns(case, scale)}
  for where, logits in inputs.items():
    for kind, labels in case.targets.items():
      value, gradient = case.compiled(jnp.asarray(logits, jnp.float32), labels)
      case.claim("finite value", "scales").finite(value, f"the loss of {where}, with {kind},")
      case.claim("finite gradient", "scales").finite(gradient, f"the gradient of {where}, with {kind},")


def _finite_gradient(case: _LossCase, largest: float) -> None:
  claim = case.claim("finite gradient up to the largest logits", "gradient_up_to=None")
  for where, scale in {"all right": largest, "all wrong": -largest}.items():
    _, gradient = case.compiled(jnp.asarray(scale * _right(case), jnp.float32), case.labels)
    claim.finite(gradient, f"the gradient of logits of scale {largest:g}, {where},")


def _permuted_batch(case: _LossCase) -> None:
  claim = case.claim("permutation of the batch")
  for kind, labels in case.targets.items():
    found = case.value(case.logits[SHUFFLED], labels[SHUFFLED])
    expected = case.value(case.logits, labels)[SHUFFLED]
    claim.close(
      found, expected, f"the loss of the examples in the order {SHUFFLED.tolist()}, with {kind},", rtol=1e-6
    )


def _independent_examples(case: _LossCase) -> None:
  claim = case.claim("independence of the examples", "independent=False")
  others = case.logits.at[1:].set(1 - 2 * case.logits[1:])
  for kind, labels in case.targets.items():
    found, expected = case.value(others, labels)[:1], case.value(case.logits, labels)[:1]
    claim.close(found, expected, f"the loss of an example among others, with {kind},", rtol=1e-6)


def _permuted_classes(case: _LossCase) -> None:
  claim = case.claim("permutation of the classes", "class_symmetric=False")
  order = np.roll(np.arange(case.num_classes), 1)
  renamed = {"integer labels": jnp.asarray(np.argsort(order))[case.labels]}
  if case.soft is not None:
    renamed["soft labels"] = case.soft[:, order]
  for kind, labels in case.targets.items():
    value, gradient = case.compiled(case.logits, labels)
    found = case.compiled(case.logits[:, order], renamed[kind])
    claim.close(
      found[0],
      value,
      f"the loss after classes took the order {order.tolist()}, with {kind},",
      rtol=1e-5,
      atol=1e-6,
    )
    claim.close(
      found[1],
      gradient[:, order],
      f"the gradient after classes took the order {order.tolist()}, with {kind},",
      rtol=1e-5,
      atol=1e-6,
    )


def _shifted(case: _LossCase, invariant: bool) -> None:
  claim = case.claim("shift invariance", "shift_invariant=None")
  found, expected = case.value(case.logits + SHIFT, case.labels), case.value(case.logits, case.labels)
  if invariant:
    claim.close(found, expected, f"the loss after {SHIFT:g} was added to all logits", rtol=1e-5, atol=1e-5)
  else:
    claim.holds(
      not np.allclose(found, expected, rtol=1e-5, atol=1e-5),
      f"the loss is the same, {expected[0]:.9g} for the first example, after {SHIFT:g} was added to all "
      "logits; shift_invariant=False claims that it changes",
    )


def _same_in_every_variant(case: _LossCase) -> None:
  expected = case.compiled(case.logits, case.labels)
  for variant, found in over_variants(case.value_and_gradient, case.logits, case.labels):
    claim = case.claim(f"the same {variant}", "variants=False")
    for what, x, y in zip(("loss", "gradient"), found, expected, strict=True):
      claim.close(x, y, f"the {what} of normal logits", rtol=2e-6, atol=1e-6)


def _computed_in_float32(case: _LossCase, dtype: str) -> None:
  claim = case.claim(f"{dtype} in and float32 out", "dtypes=()")
  logits = case.logits.astype(dtype)
  value, gradient = case.compiled(logits, case.labels)
  expected_value, expected_gradient = case.compiled(logits.astype(jnp.float32), case.labels)
  claim.equal(describe(value), f"float32 [{BATCH}]", f"the loss of {dtype} logits")
  claim.equal(describe(gradient), describe(logits), f"the gradient of {dtype} logits")
  claim.close(value, expected_value, f"the loss of {dtype} logits")
  claim.close(gradient, expected_gradient.astype(dtype), f"the gradient of {dtype} logits")


def _one_hot(case: _LossCase) -> None:
  claim = case.claim("one-hot labels", "soft_labels=False")
  found = case.value(case.logits, jax.nn.one_hot(case.labels, case.num_classes))
  expected = case.value(case.logits, case.labels)
  claim.close(found, expected, "the loss of the labels as one-hot distributions", rtol=1e-5, atol=1e-6)


def _expected_loss(case: _LossCase) -> None:
  assert case.soft is not None
  claim = case.claim("expected loss of soft labels", "linear_in_labels=False")
  classes = range(case.num_classes)
  expected = sum(case.soft[:, c] * case.value(case.logits, jnp.full(BATCH, c)) for c in classes)
  claim.close(case.value(case.logits, case.soft), expected, "the loss of distributions", rtol=1e-5, atol=1e-6)


def _mixed(case: _LossCase) -> None:
  claim = case.claim("mixed labels", "linear_in_labels=False")
  labels_b, weight = (case.labels + 1) % case.num_classes, jnp.linspace(0, 1, BATCH)
  one_hot, one_hot_b = (jax.nn.one_hot(y, case.num_classes) for y in (case.labels, labels_b))
  mixture = weight[:, None] * one_hot + (1 - weight)[:, None] * one_hot_b
  found = losses.mixed(case.value, case.logits, case.labels, labels_b, weight)
  expected = case.value(case.logits, mixture)
  claim.close(found, expected, "losses.mixed of two classes, against their mixture,", rtol=1e-5, atol=1e-6)


def _out_of_range(case: _LossCase) -> None:
  claim = case.claim("NaN for a label out of range", "out_of_range_is_nan=False")
  for wrong in (-1, case.num_classes, 2**31 - 1, -(2**31)):
    value = case.value(case.logits, case.labels.at[2].set(wrong))
    where = f"example 2 has the label {wrong} of {case.num_classes} classes: "
    claim.holds(np.isnan(value[2]), f"{where}its loss is {value[2]}; expected nan")
    claim.finite(np.delete(value, 2), f"{where}the loss of the others")


def _refused(case: _LossCase, error_type: type[Exception]) -> None:
  claim = case.claim("refusal of what does not fit", "refuses=None")
  logits, labels = case.logits, case.labels
  pairs = [(logits, labels[:-1]), (logits, logits[:, :-1]), (logits[0], labels), (labels, labels)]
  for bad_logits, bad_labels in pairs:
    where = f"logits {describe(bad_logits)} with labels {describe(bad_labels)}"
    try:
      case.fn(bad_logits, bad_labels)
    except error_type as error:
      claim.holds("\n" not in str(error), f"{where} raise {type(error).__name__} of several lines: {error}")
    except Exception as error:
      claim.fail(f"{where} raise {type(error).__name__}; expected {error_type.__name__} ({error})")
    else:
      claim.fail(f"{where} raise nothing; expected {error_type.__name__}")


def _derivatives(case: _LossCase, orders: int) -> None:
  logits, labels, soft = _ordinary(case.num_classes, scale=1.0, seed=4)
  targets = (labels,) if case.soft is None else (labels, soft)
  values = jax.jit(lambda s: tuple(case.fn(s, t) for t in targets))
  gradient = jax.jit(jax.grad(lambda s: case.fn(s, labels).sum()))
  _against_differences(case.claim("first derivatives", "derivatives=0"), values, logits)
  if orders == 2:  # forward and reverse over reverse, as Hessian products take it
    _against_differences(case.claim("second derivatives", "derivatives=1"), gradient, logits)


def _against_differences(claim: Claim, function: Callable[[Array], Any], logits: Array) -> None:
  with from_extra():
    import chex
  # Traced before chex puts ones in place of every stop_gradient, which would make it another function.
  jax.jvp(function, (logits,), (logits,))
  jax.vjp(function, logits)
  allowed = 0.03
  try:
    # chex multiplies atol by the number of entries.
    chex.assert_numerical_grads(
      function, (logits,), order=1, modes=["fwd", "rev"], eps=1e-3, rtol=allowed, atol=allowed / logits.size
    )
  except AssertionError as error:
    numbers = " ".join(str(error).split())
    claim.fail(f"they are not the differences of the function at normal logits of scale 1: {numbers}")


def _agrees_with(case: _LossCase, reference: Reference, rtol: float, floor: float) -> None:
  claim = case.claim("float64 reference", "reference=None")

  def check(logits: np.ndarray, labels: np.ndarray, where: str) -> None:
    found = case.compiled(logits, labels)
    check_against(claim, found, reference(logits, labels), where, rtol=rtol, gradient_floor=floor)

  over_logits(check, num_classes=case.num_classes)
