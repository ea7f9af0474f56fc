"""Gradient rules: ways to take the gradient of a loss, each with the interface of `jax.value_and_grad`.

A rule turns `loss_fn(params, batch_stats, batch, key) -> (loss, Aux)` into
`value_and_grad(params, batch_stats, batch, key) -> ((loss, Aux), grads)`. The loss and the Aux are those of
the clean pass at `params`, so that logged values do not depend on the rule and batch statistics match the
stored weights. Both passes use the same key and hence the same dropout mask.

Any such callable can be a rule; `passes` reads its cost from an attribute of that name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import tree
from jaxtl.errors import ConfigError
from jaxtl.optim.schedules import Schedule, cosine
from jaxtl.types import Array, Batch, GradientRule, LossFn, Params, ValueAndGrad

# Below this norm a gradient counts as zero: the perturbation is then zero, not NaN.
TINY = 1e-12
# The parameters that ASAM scales by their size: kernels and norm scales. Biases are perturbed as in SAM.
WEIGHTS = r"(kernel|scale)$"


@dataclasses.dataclass(frozen=True)
class CostedRule:
  """A gradient rule with its cost in passes and the memory that it carries from step to step."""

  rule: Callable[[LossFn], ValueAndGrad]
  passes: float
  init_memory: Callable[[Params], tuple[Any, ...]] | None = None

  def __call__(self, loss_fn: LossFn) -> ValueAndGrad:
    return self.rule(loss_fn)


def passes(rule: GradientRule) -> float:
  """Returns the forward-backward passes per image of a rule, averaged over the steps.

  This is the cost of a step relative to the plain rule. It is read from an attribute `passes`; a rule without
  the attribute counts as one pass.
  """
  return float(getattr(rule, "passes", 1.0))


def plain() -> GradientRule:
  """Returns the rule that takes the gradient itself."""
  return CostedRule(lambda loss_fn: jax.value_and_grad(loss_fn, has_aux=True), passes=1.0)


def accumulate(*, steps: int, inner: GradientRule | None = None) -> GradientRule:
  """Averages the gradient of `inner` over `steps` equal parts of the batch, one part in memory at a time.

  With `inner=sam(rho)` each part has its own perturbation: this is m-sharpness, see `sam(groups=...)`.
  Batch statistics are averaged over the parts. The loop over the parts is unrolled, because XLA:CPU runs
  convolutions inside a rolled loop about 30 times slower (jax-ml/jax#12868). XLA:CPU also drops the barriers
  between the parts, so accumulation saves little memory there.

  Args:
    steps: number of parts; the batch size must be a multiple of it.
  """
  rule = inner or plain()
  if steps < 1:
    raise ConfigError(f"accumulate needs at least 1 step; got {steps}")
  refuse_memory(rule, "accumulate")

  def accumulated(loss_fn: LossFn) -> ValueAndGrad:
    value_and_grad = rule(loss_fn)
    if steps == 1:
      return value_and_grad

    def mean_over_parts(params: Params, batch_stats: Params, batch: Batch, key: Array) -> Any:
      parts = _split(batch, steps)
      weights = _shares(parts)
      total = None
      for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        if total is not None:  # the next part waits, or XLA would hold all parts' activations at once
          total, part = jax.lax.optimization_barrier((total, part))
        result = value_and_grad(params, batch_stats, part, jax.random.fold_in(key, number))
        weighted = tree.scale(weight, result)
        total = weighted if total is None else tree.add(total, weighted)
      return total

    return mean_over_parts

  return CostedRule(accumulated, passes=passes(rule))


def sam(
  *, rho: float, groups: int = 1, p: float = 2.0, where: str | None = None, inner: GradientRule | None = None
) -> GradientRule:
  """Sharpness-aware minimisation: the gradient at the first-order worst point of a ball around the weights.

  Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving
  Generalization", 2021, arXiv 2010.01412. Weight decay stays outside, in the optimiser. The perturbation is
  zero where the gradient is.

  Args:
    rho: radius of the ball in the p-norm over all parameters; the paper's default is 0.05.
    groups: splits the batch into this many parts, each with its own perturbation (m-sharpness with
      m = batch size / groups); independent of the number of devices, unlike the paper's.
    p: 2, infinity, or any number above 1.
    where: path regex of the parameters to perturb; all where None.
    inner: the rule of both passes, for example `accumulate` for one perturbation of the whole batch that is
      computed in parts.
  """
  _check_radius("sam", rho)
  if not p > 1:
    raise ConfigError(f"sam's p is {p}; expected a number above 1, or infinity")

  def ascent(params: Params, grads: Params) -> Params:
    return steepest(_only(grads, where), rho=rho, p=p)

  rule = _two_pass(ascent, inner or plain(), lambda clean, perturbed: perturbed)
  return accumulate(steps=groups, inner=rule)


def asam(
  *,
  rho: float,
  eta: float = 0.01,
  groups: int = 1,
  where: str | None = None,
  scaled: str = WEIGHTS,
  inner: GradientRule | None = None,
) -> GradientRule:
  """Adaptive SAM: the ball is measured in units of each weight's size, so the weights' scale has no effect.

  Kwon, Kim, Park, Choi, "ASAM: Adaptive Sharpness-Aware Minimization", 2021, arXiv 2102.11600:
  eps = rho T^2 g / |T g| with T = |w| + eta for the parameters that `scaled` matches and 1 for the others.

  Args:
    rho: radius; about ten times SAM's (0.5 for CIFAR-10, 1.0 for CIFAR-100 in the paper).
    eta: keeps T away from zero; exact scale invariance needs 0. 0.01 is the authors' default.
    scaled: path regex of the parameters that are perturbed relative to their size.
    groups, where, inner: as in `sam`.
  """
  _check_radius("asam", rho)

  def ascent(params: Params, grads: Params) -> Params:
    grads = _only(grads, where)
    sizes = jax.tree.map(
      lambda w, on: jnp.abs(w) + eta if on else jnp.ones_like(w), params, tree.matches(params, scaled)
    )
    scaled_grads = tree.mul(sizes, grads)
    return tree.mul(sizes, steepest(scaled_grads, rho=rho))

  rule = _two_pass(ascent, inner or plain(), lambda clean, perturbed: perturbed)
  return accumulate(steps=groups, inner=rule)


def gsam(
  *,
  rho_max: float,
  rho_min: float | None = None,
  alpha: float = 0.4,
  schedule: Schedule | None = None,
  total_steps: int | None = None,
  where: str | None = None,
) -> GradientRule:
  """Surrogate-gap SAM: descends the perturbed loss and ascends the clean one where the two disagree.

  Zhuang, Gong, Yuan, Cui, Adam, Dvornek, Tatikonda, Duncan, Liu, "Surrogate Gap Minimization Improves
  Sharpness-Aware Training", 2022, arXiv 2203.08065:
  g = g_sam - alpha (g - <g, g_sam> / |g_sam|^2 g_sam), with rho falling from `rho_max` to `rho_min` as the
  learning rate falls.

  Args:
    rho_max: radius at the highest learning rate.
    rho_min: radius at the lowest learning rate. None means `rho_max`, a constant radius; with alpha = 0 this
      is exactly SAM.
    alpha: weight of the ascent.
    schedule: factor in [0, 1] of the range; half a cosine over `total_steps` where None.
  """
  low = rho_max if rho_min is None else rho_min
  _check_radius("gsam", low)
  if low > rho_max:
    raise ConfigError(f"gsam's rho_min is {low}, above its rho_max {rho_max}")
  if low < rho_max and schedule is None and total_steps is None:
    raise ConfigError("gsam with rho_min below rho_max needs 'schedule' or 'total_steps'")
  factor = schedule or cosine(total_steps=total_steps or 1)

  def rule(loss_fn: LossFn) -> ValueAndGrad:
    def value_and_grad(params: Params, batch_stats: Params, batch: Batch, key: Array, count: Array) -> Any:
      rho = low + (rho_max - low) * factor(count) if low < rho_max else rho_max

      def ascent(_: Params, grads: Params) -> Params:
        return steepest(_only(grads, where), rho=rho)

      def decompose(clean: Params, perturbed: Params) -> Params:
        return tree.sub(perturbed, tree.scale(alpha, _orthogonal(clean, perturbed)))

      (loss, aux), grads = _two_pass(ascent, plain(), decompose)(loss_fn)(params, batch_stats, batch, key)
      return (loss, aux._replace(memory=(count + 1,))), grads

    return value_and_grad

  return CostedRule(rule, passes=2.0, init_memory=lambda params: (jnp.zeros([], jnp.int32),))


def looksam(*, rho: float, every: int = 5, alpha: float = 0.7, where: str | None = None) -> GradientRule:
  """LookSAM: takes the perturbed gradient every few steps and reuses its direction in between.

  Liu, Mai, Chen, Hsieh, You, "Towards Efficient and Scalable Sharpness-Aware Minimization", 2022, arXiv
  2203.02714. Every `every` steps it takes a SAM step and stores v = g_sam - <g_sam, g> / |g|^2 g. In between
  it uses g + alpha |g| / |v| v. The cost is about 1 + 1/every passes.

  Args:
    rho: radius, as in `sam`.
    every: period of the full steps; 1 is SAM.
    alpha: weight of the reused direction.
    where: path regex of the parameters to perturb; all where None.
  """
  _check_radius("looksam", rho)
  if every < 1:
    raise ConfigError(f"looksam's every is {every}; expected at least 1")
  full = sam(rho=rho, where=where)

  def rule(loss_fn: LossFn) -> ValueAndGrad:
    def value_and_grad(
      params: Params, batch_stats: Params, batch: Batch, key: Array, count: Array, ahead: Params
    ) -> Any:
      clean = plain()(loss_fn)
      (loss, aux), grads = clean(params, batch_stats, batch, key)

      def look(_: Params) -> tuple[Params, Params]:
        perturbed = tree.add(params, steepest(_only(grads, where), rho=rho))
        sam_grads = clean(perturbed, batch_stats, batch, key)[1]
        return sam_grads, _orthogonal(sam_grads, grads)

      def reuse(ahead: Params) -> tuple[Params, Params]:
        ratio = tree.norm(grads) / jnp.maximum(tree.norm(ahead), TINY)
        return tree.add(grads, tree.scale(alpha * ratio, ahead)), ahead

      grads, ahead = jax.lax.cond(count % every == 0, look, reuse, ahead)
      return (loss, aux._replace(memory=(count + 1, ahead))), grads

    return value_and_grad

  if every == 1:
    return full

  def init_memory(params: Params) -> tuple[Array, Params]:
    return jnp.zeros([], jnp.int32), tree.zeros_like(params)

  return CostedRule(rule, passes=1 + 1 / every, init_memory=init_memory)


def init_memory(rule: GradientRule, params: Params) -> tuple[Any, ...]:
  """Returns the memory of the rule before the first step; `()` for rules without memory."""
  make = getattr(rule, "init_memory", None)
  return make(params) if make else ()


def steepest(grads: Params, *, rho: float | Array, p: float = 2.0) -> Params:
  """Returns the vector of p-norm rho with the largest inner product with `grads`; zero if all are zero.

  eps = rho sign(g) |g|^(q-1) / (|g|_q^q)^(1/p) with 1/p + 1/q = 1 (arXiv 2010.01412, equation 2).
  """
  if p == 2:
    return tree.scale(rho / jnp.maximum(tree.norm(grads), TINY), grads)
  if math.isinf(p):
    return jax.tree.map(lambda g: rho * jnp.sign(g), grads)
  q = p / (p - 1)
  # Relative to the largest entry, so that no power over- or underflows.
  largest = jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(grads)]))
  powers = jax.tree.map(lambda g: jnp.abs(g / jnp.maximum(largest, TINY)) ** (q - 1), grads)
  total = sum(jnp.sum(x**p) for x in jax.tree.leaves(powers))  # |g|^((q-1) p) = |g|^q
  length = jnp.maximum(total ** (1 / p), TINY)
  return jax.tree.map(lambda g, x: rho * jnp.sign(g) * x / length, grads, powers)


def _two_pass(
  ascent: Callable[[Params, Params], Params],
  inner: GradientRule,
  combine: Callable[[Params, Params], Params],
) -> GradientRule:
  """Combines the clean gradient with the one at params + ascent(params, clean gradient)."""
  refuse_memory(inner, "a SAM rule")

  def rule(loss_fn: LossFn) -> ValueAndGrad:
    value_and_grad = inner(loss_fn)

    def perturbed_value_and_grad(params: Params, batch_stats: Params, batch: Batch, key: Array) -> Any:
      clean, grads = value_and_grad(params, batch_stats, batch, key)
      perturbed = tree.add(params, ascent(params, grads))
      _, perturbed_grads = value_and_grad(perturbed, batch_stats, batch, key)
      return clean, combine(grads, perturbed_grads)

    return perturbed_value_and_grad

  return CostedRule(rule, passes=2 * passes(inner))


def _orthogonal(a: Params, b: Params) -> Params:
  """Returns the component of `a` that is orthogonal to `b`."""
  along = tree.dot(a, b) / jnp.maximum(tree.dot(b, b), TINY**2)
  return tree.sub(a, tree.scale(along, b))


def _only(grads: Params, where: str | None) -> Params:
  if where is None:
    return grads
  return jax.tree.map(lambda g, on: g if on else jnp.zeros_like(g), grads, tree.matches(grads, where))


def _split(batch: Batch, parts: int) -> list[Batch]:
  size = next(iter(batch.values())).shape[0]
  if size % parts:
    raise ConfigError(
      f"a batch of {size} does not split into {parts} equal parts; choose a divisor of {size}"
    )
  rows = size // parts
  return [{key: x[i * rows : (i + 1) * rows] for key, x in batch.items()} for i in range(parts)]


def _shares(parts: list[Batch]) -> list[Array | float]:
  """Returns the share of each part in the unmasked examples."""
  if "mask" not in parts[0]:
    return [1 / len(parts)] * len(parts)
  counts = [jnp.sum(part["mask"], dtype=jnp.float32) for part in parts]
  return [count / jnp.maximum(sum(counts), 1) for count in counts]


def _check_radius(rule: str, rho: float) -> None:
  if not rho >= 0:
    raise ConfigError(f"{rule}'s radius rho is {rho}; expected 0 or more")


def refuse_memory(rule: GradientRule, what: str) -> None:
  """Refuses a rule that carries a memory as the inner rule of `what`."""
  if getattr(rule, "init_memory", None):
    raise ConfigError(f"{what} takes a stateless inner rule (plain, accumulate, sam, asam)")


__all__ = ["accumulate", "asam", "gsam", "init_memory", "looksam", "passes", "plain", "sam", "steepest"]
