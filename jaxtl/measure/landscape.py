"""A checkpoint, its images and one loss on the devices, with all measurements on them."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxtl import curvature, tree, weights
from jaxtl.curvature import Density, Extremes, Matvec
from jaxtl.measure import network as networks
from jaxtl.measure.images import draw
from jaxtl.measure.losses import features_of, masked_logits_of, summed, summed_of_features
from jaxtl.measure.passes import BLOCK, FORWARD, GRADIENT, PRODUCT, PassCounter
from jaxtl.measure.settings import Plane, Sharpness, Slice, Spectrum
from jaxtl.tasks import LogitsLoss
from jaxtl.train import sharding
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import Array, Batch, ExampleLoss, Model, Params, Row


@dataclasses.dataclass(frozen=True, eq=False)
class Landscape:
  """A network, its images and its loss, with the measurements on them.

  Attributes:
    model: the network.
    params: its parameters, on the devices.
    loss_fn: (params, batch) -> (sum of the losses, their number).
    features_fn: (params, batch) -> the features that the loss reads.
    loss_of_features: (features, batch) -> as `loss_fn`.
    logits_fn: (params, batch) -> (logits [B, K], mask [B]) of a classification; None for other tasks.
    batches: image passes per image -> a new iteration over the batches; one batch is on the devices at a
      time.
    batch_stats: its normalisation statistics, on the devices.
    key: key of all random draws.
    images: what a number depends on in addition to the weights: source, seed and number of the images.
    runtime: the devices and the status line.
    meter: counts the passes.
  """

  model: Model
  params: Params
  loss_fn: Callable[[Params, Batch], tuple[Array, Array]]
  features_fn: Callable[[Params, Batch], Any]
  loss_of_features: Callable[[Any, Batch], tuple[Array, Array]]
  logits_fn: Callable[[Params, Batch], tuple[Array, Array]] | None
  batches: Callable[[float], Iterable[Batch]]
  batch_stats: Params
  key: Array
  images: Row
  runtime: Runtime
  meter: PassCounter

  @classmethod
  def of(
    cls,
    model: Model,
    params: Params,
    batch_stats: Params,
    loss: ExampleLoss,
    data: Data,
    runtime: Runtime,
    *,
    num_examples: int,
    seed: int,
  ) -> Landscape:
    """Puts a network and a subset of the images, drawn evenly over the classes, on the devices of a run."""
    drawn, images = draw(data, runtime, num_examples=num_examples, seed=seed)
    stats = sharding.put_replicated(batch_stats, runtime.mesh)
    meter = PassCounter(runtime)

    def batches(cost: float) -> Iterator[Batch]:
      for batch in meter.watch(runtime.moving(drawn), cost=cost):
        yield {**sharding.put_batch(batch, runtime.mesh), "batch_stats": stats}

    return cls(
      model,
      sharding.put_replicated(params, runtime.mesh),
      summed(model, loss),
      features_of(model, loss),
      summed_of_features(loss),
      masked_logits_of(model) if isinstance(loss, LogitsLoss) else None,
      batches,
      stats,
      jax.random.key(seed),
      images,
      runtime,
      meter,
    )

  def passes(self, cost: float) -> Callable[[], Iterable[Batch]]:
    """Returns a function that iterates over the batches; `cost` is the number of image passes per image."""
    return functools.partial(self.batches, cost)

  @property
  def hessian(self) -> Matvec:
    return self.block()

  def block(self, where: str | None = None) -> Matvec:
    """Returns the Hessian with respect to the parameters whose paths match `where`, on {path: array}.

    None uses all parameters.
    """
    batches = self.passes(PRODUCT if where is None else BLOCK)
    return curvature.hvp_over_batches(self.loss_fn, self.params, batches, where=where)

  @property
  def gauss_newton(self) -> Matvec:
    """The Hessian without the curvature of the network itself."""
    return self.gauss_newton_block()

  def gauss_newton_block(self, where: str | None = None) -> Matvec:
    """Returns the Gauss-Newton matrix of some parameters, selected as in `block`.

    Its outputs are the features that the loss reads: the logits of a classification.
    """
    of = self.features_fn, self.loss_of_features, self.params
    return curvature.ggn_over_batches(*of, self.passes(PRODUCT if where is None else BLOCK), where=where)

  def facts(self) -> Row:
    """Describes the images, the precision and the normalisation, and computes the loss at the weights.

    Raises:
      InputError: a parameter or a statistic is not finite; the message names it.
      NonFiniteLossError: all of them are finite, but the loss is not.
    """
    networks.check_finite(self.params, self.batch_stats)
    value = curvature.loss_over_batches(self.loss_fn, self.passes(FORWARD))(self.params)
    types = sorted({str(x.dtype) for x in jax.tree.leaves(self.params)})
    return {
      **self.images,
      "num_parameters": tree.size(self.params),
      "precision": f"{', '.join(types)} parameters",
      "matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None) or "default"),
      "batch_norm": "stored statistics",
      "mean_loss": value,
    }

  def extremes(self, *, num_iters: int, tolerance: float, start: Params | None = None) -> Extremes:
    """Computes lambda_max by its definition in this library: power iteration."""
    return curvature.extreme_eigenpairs(
      self.hessian, self.params, self.key_of(0), num_iters=num_iters, tolerance=tolerance, start=start
    )

  def spectrum(self, plan: Spectrum) -> Row:
    """Computes the numbers of `Spectrum`; the density is stored as its nodes and weights."""
    lanczos_key, probe_key, gauss_newton_key = self.key_of(1), self.key_of(2), self.key_of(9)
    pairs = curvature.top_eigenpairs(
      self.hessian,
      self.params,
      lanczos_key,
      k=plan.num_eigenvalues,
      max_products=plan.max_products,
      tolerance=plan.tolerance,
    )
    density = curvature.spectral_density(
      self.hessian, self.params, probe_key, num_samples=plan.num_probes, num_steps=plan.num_steps
    )
    gauss_newton = curvature.spectral_density(
      self.gauss_newton, self.params, gauss_newton_key, num_samples=plan.num_probes, num_steps=plan.num_steps
    )
    return {
      "eigenvalues": [pair.value for pair in pairs],
      "eigenvalue_residuals": [pair.residual for pair in pairs],
      "trace": density.trace().value,
      "trace_error": density.trace().standard_error,
      "trace_coverage": density.trace().coverage(pairs[0].value),
      **effective_numbers(gauss_newton, alpha=plan.alpha),
      "gauss_newton_negative": gauss_newton.negative_share(),
      "gauss_newton_trace": gauss_newton.trace().value,
      "gauss_newton_trace_error": gauss_newton.trace().standard_error,
      "density_nodes": density.nodes.tolist(),
      "density_weights": density.weights.tolist(),
    }

  def sharpness(self, plan: Sharpness) -> Row:
    """Computes the numbers of `Sharpness`, and the measures that no rescaling of the weights changes.

    The Fisher-Rao norm is that of a softmax classifier. It is left out for other tasks.
    """
    loss = curvature.loss_over_batches(self.loss_fn, self.passes(FORWARD))
    both = curvature.gradient_over_batches(self.loss_fn, self.passes(GRADIENT))
    gradient = lambda params: both(params)[1]  # noqa: E731
    ball = functools.partial(curvature.sam_sharpness, loss, gradient, self.params)
    adaptive = functools.partial(curvature.adaptive_sam_sharpness, loss, gradient, self.params)
    draws: Any = dict(num_samples=plan.num_samples)
    average = curvature.average_sharpness(loss, self.params, self.key_of(3), sigma=plan.sigma, **draws)
    relative = curvature.adaptive_average_sharpness(
      loss, self.params, self.key_of(4), sigma=plan.adaptive_sigma, **draws
    )
    found: Row = {
      "sharpness_plan": dataclasses.asdict(plan),
      "sam_first_order": ball(rho=plan.rho),
      "sam_sharpness": ball(rho=plan.rho, num_steps=plan.num_steps),
      "adaptive_sam_sharpness": adaptive(rho=plan.adaptive_rho, num_steps=plan.num_steps),
      "average_sharpness": average.value,
      "average_sharpness_error": average.standard_error,
      "adaptive_average_sharpness": relative.value,
      "adaptive_average_sharpness_error": relative.standard_error,
    }
    if self.logits_fn is not None:
      fisher = curvature.fisher_over_batches(self.logits_fn, self.params, self.passes(PRODUCT))
      found["fisher_rao_norm"] = curvature.fisher_rao_norm(fisher, self.params, num_products=1)
    if (where := self._head_kernel()) is not None:
      kernel = tree.select(self.params, where)
      flat = curvature.relative_flatness(self.block(where), kernel, self.key_of(5), where=where, **draws)
      found |= {"relative_flatness": flat.value, "relative_flatness_error": flat.standard_error}
    return found

  def slices(self, plan: Slice, eigenvector: Params, other: tuple[Params, Params] | None) -> Iterator[Row]:
    """Yields the loss along a random direction, the eigenvector, and the line to another checkpoint.

    Args:
      plan: the length of the lines and their number of points.
      eigenvector: the eigenvector of lambda_max.
      other: parameters and statistics of the other checkpoint, if there is one.
    """
    lines = {
      "random": (weights.filter_normalized(self.key_of(7), self.params), plan.span),
      "eigenvector": (weights.along(eigenvector, self.params), plan.eigen_span),
    }
    for name, (direction, span) in lines.items():
      coordinates = _symmetric(span, plan.num_points)
      batches = self.passes(FORWARD * len(coordinates))
      values = weights.surface(self.loss_fn, self.params, batches, [direction], [coordinates])
      yield {"direction": name, "coordinates": coordinates.tolist(), "values": _finite_or_none(values)}
    if other is not None:
      coordinates = np.union1d(np.linspace(-0.25, 1.25, plan.num_points), [0.0, 1.0])
      values = self._towards(other, coordinates)
      yield {"direction": "towards", "coordinates": coordinates.tolist(), "values": _finite_or_none(values)}

  def _towards(self, other: tuple[Params, Params], coordinates: np.ndarray) -> np.ndarray:
    """Computes the loss on the line to another checkpoint; the statistics move along."""
    here = {"params": self.params, "batch_stats": self.batch_stats}
    there = sharding.put_replicated(dict(zip(("params", "batch_stats"), other)), self.runtime.mesh)

    def loss_fn(both: Params, batch: Batch) -> tuple[Array, Array]:
      return self.loss_fn(both["params"], {**batch, "batch_stats": both["batch_stats"]})

    batches = self.passes(FORWARD * len(coordinates))
    return weights.surface(loss_fn, here, batches, [weights.between(here, there)], [coordinates])

  def plane(self, plan: Plane, eigenvector: Params) -> Row:
    """Computes the loss over the plane of two random directions, or of an eigenvector and a random one."""
    directions = self.axes(plan, eigenvector)
    coordinates = _symmetric(plan.span, plan.num_points)
    values = weights.surface(
      self.loss_fn,
      self.params,
      self.passes(FORWARD * len(coordinates) ** 2),
      directions,
      [coordinates, coordinates],
      points_per_call=plan.points_per_call,
    )
    return {"axes": plan.axes, "coordinates": coordinates.tolist(), "values": _finite_or_none(values)}

  def axes(self, plan: Plane, eigenvector: Params) -> list[Params]:
    """Returns the two directions of a plane."""
    first, second = (weights.filter_normalized(key, self.params) for key in jax.random.split(self.key_of(8)))
    if plan.axes == "random":
      return [first, second]
    # The eigenvector gets the length of the random direction, so that both axes have the same unit. Any
    # component that they share would tilt the plane.
    second = weights.orthogonalized(second, eigenvector)
    return [weights.along(eigenvector, self.params, length=float(tree.norm(second))), second]

  def key_of(self, part: int) -> Array:
    """Returns a key for each part, so that the draws of the parts are independent."""
    return jax.random.fold_in(self.key, part)

  def _head_kernel(self) -> str | None:
    """Returns a regex of the head's kernel if it has exactly one, else None."""
    found = [path for path in tree.paths(self.params) if path.startswith(f"{self.model.head}/")]
    kernels = [path for path in found if path.endswith("kernel")]
    return f"^{kernels[0]}$" if len(kernels) == 1 else None


def extreme_numbers(found: Extremes) -> Row:
  """Returns lambda_max and the eigenvalue of largest magnitude, each with its reliability."""
  return {
    "lambda_max": found.algebraic.value,
    "residual": found.algebraic.residual,
    "converged": found.algebraic.converged,
    "lambda_by_magnitude": found.by_magnitude.value,
    "residual_by_magnitude": found.by_magnitude.residual,
    "num_products": found.num_products,
  }


def effective_numbers(density: Density, *, alpha: float) -> Row:
  """Returns the effective dimension; `change` is its change over the latter half of the steps."""
  found, before = (d.effective_dimension(alpha=alpha) for d in (density, density.shorter or density))
  return {
    "effective_dimension": found.value,
    "effective_dimension_error": found.standard_error,
    "effective_dimension_change": abs(found.value - before.value),
    "alpha": alpha,
  }


def timed(measure: Callable[[], Row]) -> Row:
  """Adds the seconds that the measurement took."""
  began = time.monotonic()
  return {**measure(), "seconds": time.monotonic() - began}


def _symmetric(span: float, num_points: int) -> np.ndarray:
  """Returns coordinates from -span to span, with 0 exactly in the middle."""
  half = np.linspace(0, span, num_points // 2 + 1)
  return np.concatenate([-half[:0:-1], half])


def _finite_or_none(values: np.ndarray) -> Any:
  """Returns nested lists for JSON, which has no infinity: None where the loss is not finite."""
  return np.where(np.isfinite(values), values.astype(object), None).tolist()  # type: ignore[call-overload]
