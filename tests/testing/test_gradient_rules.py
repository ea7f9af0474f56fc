"""A gradient rule that breaks its contract is named: the property and the numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from jaxtl import optim, tree
from jaxtl.errors import ConfigError
from jaxtl.testing import check_gradient_rule


def changed(change):
  """The plain rule, with its result ((loss, aux), gradient) and the arguments given to `change`."""

  def rule(loss_fn):
    value_and_grad = optim.plain()(loss_fn)
    return lambda *args: change(value_and_grad(*args), *args)

  return rule


def of_gradient(change):
  return changed(lambda result, *args: (result[0], change(result[1])))


def at_another_point(loss_fn):
  return lambda params, *args: optim.plain()(loss_fn)(jax.tree.map(lambda w: w + 0.1, params), *args)


def with_other_statistics(result, params, batch_stats, batch, key):
  (loss, aux), gradient = result
  return (loss, aux._replace(batch_stats=batch_stats)), gradient


def with_memory(result, *args):
  (loss, aux), gradient = result
  return (loss, aux._replace(memory=(1.0,))), gradient


def parts_of_equal_weight(loss_fn):
  """Accumulation that forgets the mask."""

  def rule(params, batch_stats, batch, key):
    halves = [{name: x[rows] for name, x in batch.items()} for rows in (slice(0, 12), slice(12, None))]
    results = [optim.plain()(loss_fn)(params, batch_stats, half, key) for half in halves]
    return tree.scale(0.5, tree.add(*results))

  return rule


def second_pass(loss_fn):
  """Two passes, whose cost is not said."""

  def rule(*args):
    optim.plain()(loss_fn)(*args)
    return optim.plain()(loss_fn)(*args)

  return rule


def another_key(loss_fn):
  def rule(params, batch_stats, batch, key):
    optim.plain()(loss_fn)(params, batch_stats, batch, jax.random.fold_in(key, 1))
    return optim.plain()(loss_fn)(params, batch_stats, batch, key)

  return rule


another_key.passes = 2.0


def forgetful(loss_fn):
  """Memory that becomes a float."""

  def rule(params, batch_stats, batch, key, count):
    (loss, aux), gradient = optim.plain()(loss_fn)(params, batch_stats, batch, key)
    return (loss, aux._replace(memory=(count + 0.5,))), gradient

  return rule


forgetful.init_memory = lambda params: (jnp.zeros([], jnp.int32),)


def normalised(gradient):
  return tree.scale(1 / tree.norm(gradient), gradient)


def clipped(gradient):
  return tree.scale(1 / jnp.maximum(tree.norm(gradient), 1.0), gradient)


def other_under_jit(result, params, batch_stats, batch, key):
  """Depends on whether its batch is known, which it is where nothing is compiled."""
  known = not isinstance(batch["image"], jax.core.Tracer)
  return result[0], tree.scale(1.0 if known else 2.0, result[1])


@custom_partitioning
def local_sum(x):
  return jnp.sum(x)


def _sum_without_the_others(mesh, arguments, result):
  """A kernel that forgets that other devices have rows, too."""
  return mesh, jnp.sum, NamedSharding(mesh, PartitionSpec()), (arguments[0].sharding,)


local_sum.def_partition(
  _sum_without_the_others,
  infer_sharding_from_operands=lambda mesh, arguments, result: NamedSharding(mesh, PartitionSpec()),
  sharding_rule="b h w c -> ",
)


def by_local_sum(loss_fn):
  def rule(params, batch_stats, batch, key):
    result, gradient = optim.plain()(loss_fn)(params, batch_stats, batch, key)
    square = batch["image"] ** 2
    return result, tree.scale(local_sum(square) / jnp.sum(square), gradient)

  return rule


def violation(rule, **options):
  with pytest.raises(AssertionError) as error:
    check_gradient_rule(rule, **options)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize(
  ("rule", "said"),
  [
    (
      of_gradient(lambda g: jax.tree.map(lambda x: x.astype(jnp.bfloat16), g)),
      r"rule: form of the gradient: the gradient bias is bfloat16 \[4\]; expected float32 \[4\]",
    ),
    (of_gradient(lambda g: list(g.values())), "form of the gradient: the gradient is the tree .*; expected"),
    (of_gradient(lambda g: tree.scale(jnp.inf, g)), r"finite gradient: the gradient bias is -?inf at \[0\]"),
    (at_another_point, r"at_another_point: clean pass: the loss is [\d.]+; expected [\d.]+ \+- "),
    (changed(with_other_statistics), "clean pass: the batch statistic mean is 0.3.*; expected"),
    (parts_of_equal_weight, "parts_of_equal_weight: clean pass: the loss is .*; expected"),
    (changed(other_under_jit), r"the same under jit: the gradient bias is .* at \[\d\]; expected"),
    (changed(with_memory), "form of the memory: the memory after step 1 is the tree"),
    (
      forgetful,
      r"forgetful: form of the memory: the memory after step 1 0 is float32 \[\]; expected int32 \[\]",
    ),
    (second_pass, "passes: it evaluates 2 forward-backward passes per image, in 1 step.s., and says 1"),
    (another_key, "another_key: one key: step 1 evaluates the same rows with 2 keys, hence 2 dropout masks"),
    (of_gradient(normalised), "zero gradient at a minimum: the gradient of .* bias is nan at .*; expected 0"),
    (of_gradient(clipped), "slope of a linear loss: .* step 1 bias is .*; linear=False switches this off"),
    (by_local_sum, "by_local_sum: the same over 8 devices: the gradient bias is .*; expected"),
  ],
)
def test_a_broken_property_is_named(rule, said):
  assert re.search(said, violation(rule))


@pytest.mark.parametrize(
  ("rule", "switch"),
  [
    (another_key, dict(one_key=False)),
    (of_gradient(normalised), dict(stationary=False, linear=False)),
    (of_gradient(clipped), dict(linear=False)),
    (by_local_sum, dict(devices=False)),
  ],
)
def test_a_property_that_is_not_claimed_is_not_checked(rule, switch):
  check_gradient_rule(rule, **switch)


def test_passes_are_averaged_over_the_period_of_a_rule():
  rule = optim.looksam(rho=0.1, every=3)
  check_gradient_rule(rule, steps=3)
  assert "passes: it evaluates 1.5 forward-backward passes per image, in 4 step(s)" in violation(rule)


def test_a_rule_without_steps_is_refused():
  with pytest.raises(ConfigError, match="steps is 0; write at least 1"):
    check_gradient_rule(optim.plain(), steps=0)


def test_a_batch_that_the_devices_do_not_divide_is_spread_over_some():
  check_gradient_rule(optim.accumulate(steps=3), batch_size=12)
  assert np.gcd(12, jax.device_count()) == 4
