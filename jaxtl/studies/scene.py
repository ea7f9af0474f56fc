"""A checkpoint, its images and one loss on the devices, and all that can be measured there."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config as config_lib
from jaxtl import curvature, tree, weights
from jaxtl import data as data_lib
from jaxtl.curvature import Extremes, Matvec
from jaxtl.errors import ConfigError, NonFiniteError
from jaxtl.metrics import Mean
from jaxtl.tasks.classify import PerExampleLoss
from jaxtl.train import checkpoint, sharding
from jaxtl.train.runtime import Data, Runtime
from jaxtl.types import Array, Batch, Model, Params

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Spectrum:
  """The spectrum of the Hessian: its largest eigenvalues by Lanczos, and its density by random probes.

  Attributes:
    num_eigenvalues: how many of the largest.
    max_products: for them.
    tolerance: relative residual that they are to reach.
    num_probes, num_steps: of the density, whose products are their product.
    alpha: the curvature from which a direction counts in the effective dimension.
  """

  num_eigenvalues: int = 3
  max_products: int = 40
  tolerance: float = 1e-2
  num_probes: int = 6
  num_steps: int = 20
  alpha: float = 1.0

  def __post_init__(self) -> None:
    config_lib.require(
      num_eigenvalues=(self.num_eigenvalues, self.num_eigenvalues >= 1, "at least 1"),
      max_products=(self.max_products, self.max_products >= self.num_eigenvalues, "num_eigenvalues or more"),
      tolerance=(self.tolerance, self.tolerance > 0, "a number above 0"),
      num_probes=(self.num_probes, self.num_probes >= 2, "at least 2, for a standard error"),
      num_steps=(self.num_steps, self.num_steps >= 1, "at least 1"),
      alpha=(self.alpha, self.alpha > 0, "a curvature above 0"),
    )


@dataclasses.dataclass(frozen=True)
class Layers:
  """The Hessian of each block alone: its largest eigenvalue by Lanczos, its trace by random probes.

  Attributes:
    max_products: for the eigenvalue of a block.
    tolerance: relative residual that it is to reach.
    num_probes: for the trace of a block.
    where: a regex that finds the parameters of a block that count, such as `kernel$`; None: all.
  """

  max_products: int = 20
  tolerance: float = 3e-2
  num_probes: int = 4
  where: str | None = None

  def __post_init__(self) -> None:
    config_lib.require(
      max_products=(self.max_products, self.max_products >= 1, "at least 1"),
      tolerance=(self.tolerance, self.tolerance > 0, "a number above 0"),
      num_probes=(self.num_probes, self.num_probes >= 2, "at least 2, for a standard error"),
    )


@dataclasses.dataclass(frozen=True)
class Sharpness:
  """How much the loss rises near the weights.

  Attributes:
    rho, adaptive_rho: radius of the ball of SAM's and of ASAM's sharpness. num_steps: gradients of the
    ascent in the ball; 1 is the first order. sigma, adaptive_sigma: standard deviation of the noise of the
    average, absolute and relative to each weight. num_samples: pairs of draws of the noise.
  """

  rho: float = 0.05
  adaptive_rho: float = 0.1
  num_steps: int = 3
  sigma: float = 0.005
  adaptive_sigma: float = 0.05
  num_samples: int = 8

  def __post_init__(self) -> None:
    sizes = {name: getattr(self, name) for name in ("rho", "adaptive_rho", "sigma", "adaptive_sigma")}
    config_lib.require(
      num_steps=(self.num_steps, self.num_steps >= 1, "at least 1"),
      num_samples=(self.num_samples, self.num_samples >= 2, "at least 2, for a standard error"),
      **{name: (value, value > 0, "a number above 0") for name, value in sizes.items()},
    )


@dataclasses.dataclass(frozen=True)
class Slice:
  """The loss along lines through the weights.

  Attributes:
    num_points: of each line, odd, so that the weights themselves are one.
    span: on either side along a random filter-normalised direction, in norms of the filters.
    eigen_span: on either side along the eigenvector of lambda_max, as a distance.
    towards: another checkpoint of the same model, whose place on the line to it is 1.
  """

  num_points: int = 21
  span: float = 0.5
  eigen_span: float = 0.5
  towards: str | None = None

  def __post_init__(self) -> None:
    _require_grid(self.num_points, self.span)
    config_lib.require(eigen_span=(self.eigen_span, self.eigen_span > 0, "a number above 0"))


@dataclasses.dataclass(frozen=True)
class Plane:
  """The loss over a plane of two random filter-normalised directions.

  Attributes:
    num_points: of each side, odd, so that the weights themselves are one.
    span: on either side, in norms of the filters.
  """

  num_points: int = 11
  span: float = 0.5

  def __post_init__(self) -> None:
    _require_grid(self.num_points, self.span)


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
  """What is measured, and on what.

  Attributes:
    model: the network.
    params: its parameters, on the devices.
    loss_fn: (params, batch) -> (sum of the losses, their number).
    logits_fn: (params, batch) -> (logits [B, K], mask [B]).
    batches: gives the batches afresh; one is on the devices at a time.
    key: of all random draws.
    num_examples: how many images count.
    runtime: the devices and the status line.
  """

  model: Model
  params: Params
  loss_fn: Callable[[Params, Batch], tuple[Array, Array]]
  logits_fn: Callable[[Params, Batch], tuple[Array, Array]]
  batches: Callable[[], Iterable[Batch]]
  key: Array
  num_examples: int
  runtime: Runtime

  @classmethod
  def of(
    cls,
    model: Model,
    params: Params,
    batch_stats: Params,
    loss: PerExampleLoss,
    data: Data,
    runtime: Runtime,
    *,
    num_examples: int,
    seed: int,
  ) -> Scene:
    """Puts a network and a subset of the images, drawn evenly over the classes, on the devices of a run."""
    drawn = list(subset(data, runtime, num_examples=num_examples, seed=seed))
    stats = sharding.put_replicated(batch_stats, runtime.mesh)

    def batches() -> Iterator[Batch]:
      for batch in runtime.moving(drawn):
        yield {**sharding.put_batch(batch, runtime.mesh), "batch_stats": stats}

    return cls(
      model,
      sharding.put_replicated(params, runtime.mesh),
      summed(model, loss),
      _masked_logits(model),
      batches,
      jax.random.key(seed),
      int(sum(float(jnp.sum(batch["mask"])) for batch in batches())),
      runtime,
    )

  @property
  def hessian(self) -> Matvec:
    return curvature.hvp_over_batches(self.loss_fn, self.params, self.batches)

  def facts(self) -> Row:
    """What a number depends on beside the weights: images, precision, mode of normalisation, and the loss."""
    curvature.check_params(self.params)
    value = curvature.loss_over_batches(self.loss_fn, self.batches)(self.params)
    if not np.isfinite(value):
      raise NonFiniteError(f"the loss is {value} at the checkpoint; curvature needs a finite one")
    types = sorted({str(x.dtype) for x in jax.tree.leaves(self.params)})
    return {
      "num_examples": self.num_examples,
      "num_parameters": tree.size(self.params),
      "precision": ", ".join(types),
      "batch_norm": "stored statistics",
      "mean_loss": value,
    }

  def extremes(self, *, num_iters: int, tolerance: float, start: Params | None = None) -> Extremes:
    """lambda_max by its definition here: power iteration."""
    return curvature.extreme_eigenpairs(
      self.hessian, self.params, self.key, num_iters=num_iters, tolerance=tolerance, start=start
    )

  def spectrum(self, plan: Spectrum) -> Row:
    """The numbers of `Spectrum`; the density is kept as its nodes and weights."""
    lanczos_key, probe_key = jax.random.split(self.key)
    pairs = curvature.top_eigenpairs(
      self.hessian,
      self.params,
      lanczos_key,
      k=min(plan.num_eigenvalues, tree.size(self.params)),
      max_products=plan.max_products,
      tolerance=plan.tolerance,
    )
    density = curvature.spectral_density(
      self.hessian, self.params, probe_key, num_samples=plan.num_probes, num_steps=plan.num_steps
    )
    effective = density.effective_dimension(alpha=plan.alpha)
    return {
      "eigenvalues": [pair.value for pair in pairs],
      "eigenvalue_residuals": [pair.residual for pair in pairs],
      "trace": density.trace().value,
      "trace_error": density.trace().standard_error,
      "effective_dimension": effective.value,
      "effective_dimension_error": effective.standard_error,
      "alpha": plan.alpha,
      "density_nodes": density.nodes.tolist(),
      "density_weights": density.weights.tolist(),
    }

  def sharpness(self, plan: Sharpness) -> Row:
    """The numbers of `Sharpness`, and the measures that no rescaling of the weights changes."""
    loss = curvature.loss_over_batches(self.loss_fn, self.batches)
    both = curvature.gradient_over_batches(self.loss_fn, self.batches)
    gradient = lambda params: both(params)[1]  # noqa: E731
    ball = functools.partial(curvature.sam_sharpness, loss, gradient, self.params)
    adaptive = functools.partial(curvature.adaptive_sam_sharpness, loss, gradient, self.params)
    draws: Any = dict(num_samples=plan.num_samples)
    average = curvature.average_sharpness(loss, self.params, self.key, sigma=plan.sigma, **draws)
    relative = curvature.adaptive_average_sharpness(
      loss, self.params, self.key, sigma=plan.adaptive_sigma, **draws
    )
    fisher = curvature.fisher_over_batches(self.logits_fn, self.params, self.batches)
    found: Row = {
      "sam_first_order": ball(rho=plan.rho),
      "sam_sharpness": ball(rho=plan.rho, num_steps=plan.num_steps),
      "adaptive_sam_sharpness": adaptive(rho=plan.adaptive_rho, num_steps=plan.num_steps),
      "average_sharpness": average.value,
      "average_sharpness_error": average.standard_error,
      "adaptive_average_sharpness": relative.value,
      "adaptive_average_sharpness_error": relative.standard_error,
      "fisher_rao_norm": curvature.fisher_rao_norm(fisher, self.params),
    }
    if (where := self._head_kernel()) is not None:
      flat = curvature.relative_flatness(self.hessian, self.params, self.key, where=where, **draws)
      found |= {"relative_flatness": flat.value, "relative_flatness_error": flat.standard_error}
    return found

  def layers(self, plan: Layers) -> Iterator[Row]:
    """lambda_max and trace of each block that has parameters, in forward order."""
    for block in self.model.blocks:
      within = f"^{block}/" if plan.where is None else f"^{block}/.*(?:{plan.where})"
      try:
        matvec = curvature.restrict(self.hessian, self.params, where=within)
      except ConfigError:
        continue  # a block without such parameters
      like = tree.select(self.params, within)
      [pair] = curvature.top_eigenpairs(
        matvec, like, self.key, k=1, max_products=plan.max_products, tolerance=plan.tolerance
      )
      trace = curvature.trace(matvec, like, self.key, num_samples=plan.num_probes)
      yield {
        "layer": block,
        "layer_parameters": tree.size(like),
        "layer_lambda_max": pair.value,
        "layer_residual": pair.residual,
        "layer_converged": pair.converged,
        "layer_trace": trace.value,
        "layer_trace_error": trace.standard_error,
      }

  def slices(self, plan: Slice, eigenvector: Params) -> Iterator[Row]:
    """The loss along a random direction, the eigenvector, and the way to another checkpoint."""
    lines = {
      "random": (weights.filter_normalized(self.key, self.params), _symmetric(plan.span, plan.num_points)),
      "eigenvector": (weights.along(eigenvector, self.params), _symmetric(plan.eigen_span, plan.num_points)),
    }
    if plan.towards is not None:
      other = sharding.put_replicated(checkpoint.load(plan.towards).params, self.runtime.mesh)
      lines["towards"] = weights.between(self.params, other), np.linspace(-0.25, 1.25, plan.num_points)
    for name, (direction, coordinates) in lines.items():
      values = weights.surface(self.loss_fn, self.params, self.batches, [direction], [coordinates])
      yield {"direction": name, "coordinates": coordinates.tolist(), "values": _finite_or_none(values)}

  def plane(self, plan: Plane) -> Row:
    """The loss over the plane of two random directions."""
    first, second = (
      weights.filter_normalized(key, self.params) for key in jax.random.split(jax.random.fold_in(self.key, 1))
    )
    coordinates = _symmetric(plan.span, plan.num_points)
    values = weights.surface(
      self.loss_fn, self.params, self.batches, [first, second], [coordinates, coordinates]
    )
    return {"coordinates": coordinates.tolist(), "values": _finite_or_none(values)}

  def _head_kernel(self) -> str | None:
    """The only kernel of the head, if it has one."""
    found = [path for path in tree.paths(self.params) if path.startswith(f"{self.model.head}/")]
    kernels = [path for path in found if path.endswith("kernel")]
    return f"^{kernels[0]}$" if len(kernels) == 1 else None


def extreme_numbers(found: Extremes) -> Row:
  """lambda_max and the eigenvalue of largest magnitude, each with what tells how far to trust it."""
  return {
    "lambda_max": found.algebraic.value,
    "residual": found.algebraic.residual,
    "converged": found.algebraic.converged,
    "lambda_by_magnitude": found.by_magnitude.value,
    "residual_by_magnitude": found.by_magnitude.residual,
    "num_products": found.num_products,
  }


def timed(measure: Callable[[], Row]) -> Row:
  """The numbers with the seconds that they took."""
  began = time.monotonic()
  return {**measure(), "seconds": time.monotonic() - began}


@functools.cache
def summed(model: Model, loss: PerExampleLoss) -> Callable[[Params, Batch], tuple[Array, Array]]:
  """(params, batch) -> (sum over the examples, their number); one function for each pair, compiled once."""

  def loss_fn(params: Params, batch: Batch) -> tuple[Array, Array]:
    features, _ = model.apply(params, batch["batch_stats"], batch["image"])
    mean = Mean.of(loss(features["logits"], batch["label"]), batch["mask"])
    return mean.total, mean.weight

  return loss_fn


def subset(
  data: Data, runtime: Runtime, *, num_examples: int, seed: int
) -> Iterable[Mapping[str, np.ndarray]]:
  """Batches of a subset of a source, drawn evenly over the classes."""
  chosen = data_lib.subset(source=runtime.open(data), num_examples=num_examples, seed=seed)
  return runtime.eval_batches_of(chosen, data)


@functools.cache
def _masked_logits(model: Model) -> Callable[[Params, Batch], tuple[Array, Array]]:
  def logits(params: Params, batch: Batch) -> tuple[Array, Array]:
    return model.apply(params, batch["batch_stats"], batch["image"])[0]["logits"], batch["mask"]

  return logits


def _symmetric(span: float, num_points: int) -> np.ndarray:
  """Coordinates from -span to span, 0 exactly in the middle."""
  half = np.linspace(0, span, num_points // 2 + 1)
  return np.concatenate([-half[:0:-1], half])


def _finite_or_none(values: np.ndarray) -> Any:
  """Nested lists for JSON, which has no infinity: None where the loss is not finite."""
  return np.where(np.isfinite(values), values.astype(object), None).tolist()  # type: ignore[call-overload]


def _require_grid(num_points: int, span: float) -> None:
  config_lib.require(
    num_points=(num_points, num_points >= 3 and num_points % 2 == 1, "an odd number from 3"),
    span=(span, span > 0, "a number above 0"),
  )
