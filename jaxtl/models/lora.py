"""LoRA: kernels that change by a product of two thin matrices.

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen, "LoRA: Low-Rank Adaptation of Large Language Models", 2021,
arXiv 2106.09685.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import tree
from jaxtl.errors import ConfigError
from jaxtl.types import Array, Model, Params

# The factors are stored next to their kernel: `lora_a` and `lora_b`, or `lora_query_a` and so on where one
# kernel holds several projections.
FACTORS = r"/lora_\w+$"
PROJECTIONS = ("query", "key", "value")
_PACKED = "qkv"


def lora(
  *,
  model: Model,
  rank: int = 8,
  alpha: float = 8.0,
  where: str = r"/qkv/kernel$",
  projections: Sequence[str] = PROJECTIONS,
) -> Model:
  """Adds a pair of factors A [in, rank] and B [rank, out] to kernels: W' = W + (alpha / rank) A B.

  A is drawn from U(-1/sqrt(in), 1/sqrt(in)) and B is zero, as in the authors' code, so the function starts
  unchanged. The gradient rule decides which parameters are trained:
  `dict(make=".optim.only", update=("head", r"/lora_\\w+$"))` trains the head and the factors. A rate for full
  fine-tuning is usually too low for the factors; try ten times that rate.

  Args:
    model: the model whose kernels are adapted; its own parameters keep their paths and initial values.
    rank: width of the factors; 8 is a value of the paper's experiments.
    alpha: the change is scaled by alpha / rank, so that the rank can change at the same rate.
    where: path regex of the kernels. One of a convolution counts as a matrix [height * width * in, out].
    projections: which of "query", "key" and "value" to adapt in a kernel that holds all three; each has
      factors of its own.

  Raises:
    ConfigError: a number is out of its range, or a projection is unknown; when the model is initialised,
      `where` matches nothing or something else than a kernel, or the rank is above that of a kernel.
  """
  if not isinstance(model, Model):
    raise ConfigError(f"lora needs a model, such as dict(make='.models.vit_b16'); got {model!r}")
  if rank < 1:
    raise ConfigError(f"lora's rank is {rank}; expected at least 1")
  if not 0 < alpha < math.inf:
    raise ConfigError(f"lora's alpha is {alpha}; expected a finite number above 0")
  if not projections or set(projections) - set(PROJECTIONS):
    raise ConfigError(f"lora's projections are {list(projections)}; expected some of {list(PROJECTIONS)}")

  def init(key: Array, images: Any) -> tuple[Params, Params]:
    params, batch_stats = model.init(key, images)
    return add_factors(params, key, rank=rank, where=where, projections=projections), batch_stats

  def apply(params: Params, *rest: Any, **options: Any) -> tuple[dict[str, Array], Params]:
    return model.apply(merge_factors(params, alpha=alpha), *rest, **options)

  return dataclasses.replace(
    model, name=f"{model.name} with LoRA", init=init, apply=apply, module=None, added=FACTORS
  )


def add_factors(
  params: Params, key: Array, *, rank: int, where: str, projections: Sequence[str] = PROJECTIONS
) -> Params:
  """Returns the parameters with factors next to the kernels that `where` matches; arguments as in `lora`."""
  kernels = tree.select(params, where)
  # Another stream than that of the model's own initial values.
  keys = jax.random.split(jax.random.fold_in(key, 0x6C6F7261), len(kernels))
  for one, (path, kernel) in zip(keys, kernels.items(), strict=True):
    parts = _parts(path, kernel, projections)
    width = kernel.shape[-1] // (len(PROJECTIONS) if parts != [""] else 1)
    inputs = math.prod(kernel.shape[:-1])
    if rank > min(inputs, width):
      raise ConfigError(f"lora's rank is {rank}, above that of {path}, which is a matrix [{inputs}, {width}]")
    bound = 1 / math.sqrt(inputs)
    factors: dict[str, Array] = {}
    for part, draw in zip(parts, jax.random.split(one, len(parts)), strict=True):
      factors[f"lora_{part}a"] = jax.random.uniform(draw, (inputs, rank), kernel.dtype, -bound, bound)
      factors[f"lora_{part}b"] = jnp.zeros((rank, width), kernel.dtype)
    params = _with_neighbours(params, path.split("/")[:-1], factors)
  return params


def merge_factors(params: Params, *, alpha: float) -> Params:
  """Returns the parameters of the model without LoRA, whose kernels contain the change.

  Args:
    params: with factors next to some kernels; blocks may be absent.
    alpha: as in `lora`.
  """
  if not isinstance(params, Mapping):
    return params
  inner = {name: merge_factors(value, alpha=alpha) for name, value in params.items()}
  factors = {name: inner.pop(name) for name in list(inner) if re.search(FACTORS, f"/{name}")}
  if factors:
    inner["kernel"] = inner["kernel"] + _change(inner["kernel"], factors, alpha)
  return inner


def _change(kernel: Array, factors: Mapping[str, Array], alpha: float) -> Array:
  """Returns (alpha / rank) A B in the shape of the kernel; zero for projections without factors."""

  def product(part: str) -> Array:
    a, b = factors[f"lora_{part}a"], factors[f"lora_{part}b"]
    return (alpha / a.shape[-1]) * (a @ b)

  if "lora_a" in factors:
    return product("").reshape(kernel.shape)
  width = kernel.shape[-1] // len(PROJECTIONS)
  absent = jnp.zeros((math.prod(kernel.shape[:-1]), width), kernel.dtype)
  parts = [product(f"{name}_") if f"lora_{name}_a" in factors else absent for name in PROJECTIONS]
  return jnp.concatenate(parts, axis=-1).reshape(kernel.shape)


def _parts(path: str, kernel: Array, projections: Sequence[str]) -> list[str]:
  """Returns the prefixes of a kernel's factors; raises ConfigError if it is no kernel."""
  *_, layer, name = ("", *path.split("/"))
  if name != "kernel" or kernel.ndim < 2:
    raise ConfigError(f"lora adapts kernels, and its 'where' matches {path}; end it with /kernel$")
  return [f"{part}_" for part in PROJECTIONS if part in projections] if layer == _PACKED else [""]


def _with_neighbours(params: Params, path: Sequence[str], leaves: Mapping[str, Array]) -> Params:
  """Returns the nested dict with further leaves in the dict at `path`."""
  if not path:
    return {**params, **leaves}
  return {**params, path[0]: _with_neighbours(params[path[0]], path[1:], leaves)}
