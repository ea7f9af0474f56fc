"""The contract of a gradient rule."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtl import optim, tree
from jaxtl.errors import ConfigError
from jaxtl.testing.claims import Claim, describe, name_of
from jaxtl.types import Array, Aux, Batch, GradientRule, LossFn, Params

FEATURES, CLASSES = 3, 4
CLOSE = dict(rtol=1e-5, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class _RuleCase:
  """A rule under test, and where it is applied.

  Attributes:
    rule: as in `check_gradient_rule`.
    params, batch_stats, batch: a point and a batch of `_network_loss`.
    memory: what the rule remembers before the first step.
  """

  rule: GradientRule
  params: Params
  batch_stats: Params
  batch: Batch
  memory: tuple[Any, ...]

  def claim(self, name: str, unless: str = "") -> Claim:
    return Claim(name_of(self.rule), name, unless)

  def apply(self, loss: LossFn, params: Params, memory: tuple[Any, ...]) -> Any:
    """((loss, Aux), gradient) of one step, not compiled."""
    return self.rule(loss)(params, self.batch_stats, self.batch, jax.random.key(0), *memory)


def check_gradient_rule(
  rule: GradientRule,
  *,
  batch_size: int = 16,
  steps: int = 4,
  stationary: bool = True,
  linear: bool = True,
  one_key: bool = True,
  devices: bool = True,
) -> None:
  """Checks that a gradient rule keeps the contract of `jaxtl.types.GradientRule`.

  The rule is applied to losses of a small network with the parameters `kernel` [3, 4], `scale` [4] and
  `bias` [4], on a batch with `image` [B, 1, 1, 3], `label` int [B] and `mask` bool [B]. A rule that needs
  more, such as one that moves a block of a model, cannot be checked here.

  Whatever the keywords, the loss, the statistics and the metrics are those of the clean pass, in which masked
  rows do not count; the gradient is finite and has the parameters' form; `jit` changes nothing; the memory
  keeps its form; and `passes` is what the rule evaluates.

  Args:
    rule: loss_fn -> value_and_grad, its settings bound.
    batch_size: B; a multiple of the parts into which the rule splits a batch.
    steps: over which passes are averaged; a multiple of the period of a rule that has one.
    stationary: the gradient is zero where the loss has none, at a minimum: perturbations divide by the norm
      of the gradient. False for a rule that adds noise or weight decay.
    linear: the gradient of a linear loss is that loss's slope, as it is for every mean of gradients at points
      nearby. False for a rule that scales or clips.
    one_key: all passes over the same rows have the same key, hence the same dropout mask. False for a rule
      that averages over masks.
    devices: a batch in parts over the devices gives the gradient of the whole. False for a rule that
      runs on one device alone. Skipped where there is only one.

  Raises:
    AssertionError: the rule breaks the contract; one line says which property, and with which numbers.
    ConfigError: `steps` is below 1.
  """
  if steps < 1:
    raise ConfigError(f"steps is {steps}; write at least 1")
  case = _case(rule, batch_size)
  first = _steps(case, steps, one_key)
  _same_as_clean_pass(case, first)
  if stationary:
    _zero_at_a_minimum(case)
  if linear:
    _slope_of_a_linear_loss(case)
  _same_when_compiled(case, first, devices)


def _case(rule: GradientRule, batch_size: int) -> _RuleCase:
  rng = np.random.default_rng(1)
  shapes = {"kernel": (FEATURES, CLASSES), "scale": (CLASSES,), "bias": (CLASSES,)}
  params = {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}
  batch = {
    "image": jnp.asarray(rng.standard_normal((batch_size, 1, 1, FEATURES)), jnp.float32),
    "label": jnp.asarray(rng.integers(0, CLASSES, batch_size), jnp.int32),
    # Parts of the batch differ in how many rows count.
    "mask": jnp.arange(batch_size) % 8 // 2 != 1,
  }
  return _RuleCase(rule, params, {"mean": jnp.full(FEATURES, 0.3)}, batch, optim.init_memory(rule, params))


def _network_loss(params: Params, batch_stats: Params, batch: Batch, key: Array) -> tuple[Array, Aux]:
  """The squared error of a small network, whose statistics and metrics are means over the rows that count."""
  inputs = batch["image"].reshape(-1, FEATURES)
  outputs = jnp.tanh(inputs @ params["kernel"] + params["bias"][None]) @ params["scale"]
  counted = batch["mask"].astype(jnp.float32)
  shares = counted / jnp.maximum(counted.sum(), 1)
  after = {"mean": 0.9 * batch_stats["mean"] + 0.1 * (shares @ inputs)}
  return shares @ (outputs - batch["label"]) ** 2, Aux(after, {"output": shares @ outputs})


def _of_params(function: Callable[[Params], Array]) -> LossFn:
  """A loss that looks at the parameters alone."""
  return lambda params, batch_stats, batch, key: (function(params), Aux(batch_stats, {}))


def _steps(case: _RuleCase, steps: int, one_key: bool) -> Any:
  """Counts the rows of every evaluation; returns the first step. Without memory every step is like it."""
  results, rows, memory = [], 0, case.memory
  for number in range(1, (steps if memory else 1) + 1):
    evaluations: list[tuple[np.ndarray, np.ndarray]] = []
    results.append(case.apply(_recorded(evaluations), case.params, memory))
    jax.effects_barrier()
    rows += sum(len(image) for image, _ in evaluations)
    memory = results[-1][0][1].memory
    case.claim("form of the memory").same_form(memory, case.memory, f"the memory after step {number}")
    if one_key:
      _one_key(case, evaluations, number)
  said, found = optim.passes(case.rule), rows / (len(results) * len(case.batch["label"]))
  case.claim("passes").holds(
    math.isclose(said, found),
    f"it evaluates {found:g} forward-backward passes per image, in {len(results)} step(s), and says {said:g}",
  )
  return results[0]


def _recorded(evaluations: list[tuple[np.ndarray, np.ndarray]]) -> LossFn:
  def recorded(params: Params, batch_stats: Params, batch: Batch, key: Array) -> tuple[Array, Aux]:
    jax.debug.callback(lambda *seen: evaluations.append(seen), batch["image"], jax.random.key_data(key))
    return _network_loss(params, batch_stats, batch, key)

  return recorded


def _one_key(case: _RuleCase, evaluations: list[tuple[np.ndarray, np.ndarray]], number: int) -> None:
  keys = collections.defaultdict(set)
  for image, key in evaluations:
    keys[np.asarray(image).tobytes()].add(tuple(np.asarray(key).tolist()))
  most = max(map(len, keys.values()), default=1)
  case.claim("one key", "one_key=False").holds(
    most == 1, f"step {number} evaluates the same rows with {most} keys, hence {most} dropout masks"
  )


def _same_as_clean_pass(case: _RuleCase, first: Any) -> None:
  (loss, aux), gradient = first
  expected, clean = _network_loss(case.params, case.batch_stats, case.batch, jax.random.key(0))
  case.claim("form of the gradient").same_form(gradient, case.params, "the gradient")
  case.claim("finite gradient").finite(gradient, "the gradient")
  claim = case.claim("clean pass")
  claim.equal(describe(loss), "float32 []", "the loss")
  claim.close(loss, expected, "the loss", **CLOSE)
  claim.close(aux.batch_stats, clean.batch_stats, "the batch statistic", **CLOSE)
  claim.close(aux.metrics, clean.metrics, "the metric", **CLOSE)


def _zero_at_a_minimum(case: _RuleCase) -> None:
  claim = case.claim("zero gradient at a minimum", "stationary=False")
  zeros = tree.zeros_like(case.params)
  loss = _of_params(lambda params: 0.5 * tree.dot(params, params))
  _, gradient = case.apply(loss, zeros, case.memory)
  claim.close(gradient, zeros, "the gradient of |w|^2 / 2 at 0")


def _slope_of_a_linear_loss(case: _RuleCase) -> None:
  claim, memory = case.claim("slope of a linear loss", "linear=False"), case.memory
  slope = tree.scale(-0.5, case.params)
  loss = _of_params(lambda params: tree.dot(slope, params))
  for number in range(2 if memory else 1):
    (_, aux), gradient = case.apply(loss, case.params, memory)
    claim.close(gradient, slope, f"the gradient of a linear loss in step {number + 1}", **CLOSE)
    memory = aux.memory


def _same_when_compiled(case: _RuleCase, first: Any, devices: bool) -> None:
  """Compiles it once, for several devices if there are some."""
  compiled = jax.jit(case.rule(_network_loss))

  def compare(claim: Claim, batch: Batch) -> None:
    (found, _), gradient = compiled(case.params, case.batch_stats, batch, jax.random.key(0), *case.memory)
    claim.close(found, first[0][0], "the loss", **CLOSE)
    claim.close(gradient, first[1], "the gradient", **CLOSE)

  count = math.gcd(jax.device_count(), len(case.batch["label"])) if devices else 1
  if count == 1:
    compare(case.claim("the same under jit"), case.batch)
    return
  mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
  try:
    parts = jax.device_put(case.batch, NamedSharding(mesh, PartitionSpec("data")))
    compare(case.claim(f"the same over {count} devices", "devices=False"), parts)
  except AssertionError:
    compare(case.claim("the same under jit"), case.batch)  # unless it is compilation alone that changes it
    raise
