"""The curvature of each block of a network alone, with the other blocks fixed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jax

from jaxtl import curvature, tree
from jaxtl.measure.landscape import Landscape, effective_numbers
from jaxtl.measure.passes import FORWARD, GRADIENT
from jaxtl.measure.settings import BlockCurvature
from jaxtl.types import Array, Params, Row


def rows(at: Landscape, plan: BlockCurvature) -> Iterator[Row]:
  """Yields a row for each block that has parameters, in forward order.

  Returns:
    Rows of `layer`, the name of the block, and of numbers with the prefix `layer_`. The number of scalars is
    `parameters`. The Hessian gives `lambda_max`, with `residual` and `converged`, and `trace`. The
    Gauss-Newton matrix gives `effective_dimension`, with its `change` and `alpha`. The sharpness is
    `sam_first_order` with its radius `rho`. The suffix `error` marks a standard error.

  Raises:
    ConfigError: `plan.where` matches no parameter, or is not a regex.
    InputError: the loss, its gradient or a product is not finite.
  """
  # One gradient with respect to all parameters contains those of all blocks.
  slope = curvature.gradient_over_batches(at.loss_fn, at.passes(GRADIENT))(at.params)[1]
  for number, (block, where) in enumerate(_blocks(at, plan)):
    if where is not None:
      key = jax.random.fold_in(at.key_of(6), number)
      size = tree.size(tree.select(at.params, where))
      hessian, gauss_newton = _hessian(at, plan, where, key), _gauss_newton(at, plan, where, key)
      sharpness = {"layer_sam_first_order": _sharpness(at, plan, where, slope), "layer_rho": plan.rho}
      yield {"layer": block, "layer_parameters": size, **hessian, **gauss_newton, **sharpness}


def _blocks(at: Landscape, plan: BlockCurvature) -> Iterator[tuple[str, str | None]]:
  """Yields each block with a regex of its parameters that count, or None if there are none."""
  wanted = jax.tree.leaves(tree.matches(at.params, plan.where))
  counted = [path for path, kept in zip(tree.paths(at.params), wanted, strict=True) if kept]
  for block in at.model.blocks:
    inside = [re.escape(path) for path in counted if path.startswith(f"{block}/")]
    yield block, f"^(?:{'|'.join(inside)})$" if inside else None


def _hessian(at: Landscape, plan: BlockCurvature, where: str, key: Array) -> Row:
  """Computes lambda_max by Lanczos, and the trace by random probes."""
  matvec, like = at.block(where), tree.select(at.params, where)
  first, second = jax.random.split(key)
  settings: dict[str, Any] = dict(max_products=plan.max_products, tolerance=plan.tolerance)
  [pair] = curvature.top_eigenpairs(matvec, like, first, k=1, **settings)
  trace = curvature.trace(matvec, like, second, num_samples=plan.num_probes)
  return {
    "layer_lambda_max": pair.value,
    "layer_residual": pair.residual,
    "layer_converged": pair.converged,
    "layer_trace": trace.value,
    "layer_trace_error": trace.standard_error,
  }


def _gauss_newton(at: Landscape, plan: BlockCurvature, where: str, key: Array) -> Row:
  """Computes a block's effective dimension, as `Landscape.spectrum` does for the whole network."""
  density = curvature.spectral_density(
    at.gauss_newton_block(where),
    tree.select(at.params, where),
    jax.random.fold_in(key, 2),  # a split of the key into two uses 0 and 1, which `_hessian` has
    num_samples=plan.effective_probes,
    num_steps=plan.effective_steps,
  )
  return {f"layer_{name}": value for name, value in effective_numbers(density, alpha=plan.alpha).items()}


def _sharpness(at: Landscape, plan: BlockCurvature, where: str, slope: Params) -> float:
  """Computes SAM's first-order sharpness with only one block free to move.

  Foret, Kleiner, Mobahi, Neyshabur, 2021, arXiv 2010.01412.
  """
  loss = curvature.loss_over_batches(at.loss_fn, at.passes(FORWARD))
  return curvature.sam_sharpness(
    lambda block: loss(tree.replace(at.params, block)),
    lambda _: tree.select(slope, where),
    tree.select(at.params, where),
    rho=plan.rho,
  )
