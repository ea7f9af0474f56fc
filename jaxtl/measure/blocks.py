"""The curvature of each block of a network alone, the others held still."""

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
  """A row for each block that has parameters, in forward order.

  Returns:
    Rows of `layer`, the block's name, and with the prefix `layer_` its `parameters`, scalars; of its Hessian
    `lambda_max`, with `residual` and `converged`, and `trace`; of its Gauss-Newton matrix
    `effective_dimension`, with `change`, and the `alpha` of that; `sam_first_order` and its radius `rho`.
    `error` after a name is a standard error.

  Raises:
    ConfigError: `plan.where` finds no parameter, or is no regex.
    InputError: the loss, its gradient or a product is not finite.
  """
  # One gradient by everything has those by all blocks.
  slope = curvature.gradient_over_batches(at.loss_fn, at.passes(GRADIENT))(at.params)[1]
  for number, (block, where) in enumerate(_blocks(at, plan)):
    if where is not None:
      key = jax.random.fold_in(at.key_of(6), number)
      size = tree.size(tree.select(at.params, where))
      hessian, gauss_newton = _hessian(at, plan, where, key), _gauss_newton(at, plan, where, key)
      sharpness = {"layer_sam_first_order": _sharpness(at, plan, where, slope), "layer_rho": plan.rho}
      yield {"layer": block, "layer_parameters": size, **hessian, **gauss_newton, **sharpness}


def _blocks(at: Landscape, plan: BlockCurvature) -> Iterator[tuple[str, str | None]]:
  """Each block with a regex of its parameters that count; None where there are none."""
  wanted = jax.tree.leaves(tree.matches(at.params, plan.where))
  counted = [path for path, kept in zip(tree.paths(at.params), wanted, strict=True) if kept]
  for block in at.model.blocks:
    inside = [re.escape(path) for path in counted if path.startswith(f"{block}/")]
    yield block, f"^(?:{'|'.join(inside)})$" if inside else None


def _hessian(at: Landscape, plan: BlockCurvature, where: str, key: Array) -> Row:
  """lambda_max by Lanczos, the trace by probes."""
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
  """The effective dimension, as `Landscape.spectrum` has that of the whole network."""
  density = curvature.spectral_density(
    at.gauss_newton_block(where),
    tree.select(at.params, where),
    jax.random.fold_in(key, 2),  # a split of the key into two is its 0 and 1, which `_hessian` has
    num_samples=plan.effective_probes,
    num_steps=plan.effective_steps,
  )
  return {f"layer_{name}": value for name, value in effective_numbers(density, alpha=plan.alpha).items()}


def _sharpness(at: Landscape, plan: BlockCurvature, where: str, slope: Params) -> float:
  """SAM's sharpness to first order, where the block alone may move.

  Foret, Kleiner, Mobahi, Neyshabur, 2021, arXiv 2010.01412.
  """
  loss = curvature.loss_over_batches(at.loss_fn, at.passes(FORWARD))
  return curvature.sam_sharpness(
    lambda block: loss(tree.replace(at.params, block)),
    lambda _: tree.select(slope, where),
    tree.select(at.params, where),
    rho=plan.rho,
  )
