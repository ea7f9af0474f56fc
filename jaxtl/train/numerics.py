"""Checks that a model computes the same with given weights as the model that they were trained in.

Padding, epsilons, the activation, the pooling and the number of heads leave no trace in the shapes of the
parameters, so weights can fit a model that computes something else.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config as config_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.errors import CheckpointError, ConfigError
from jaxtl.types import Array, Model, Params

# Keywords that act only in training, on the precision, or on the shapes of parameters, which are compared.
FREE = {
  *("batch_norm", "bn_momentum", "dropout", "drop_path", "dtype", "remat", "zero_init_residual"),
  *("depth", "depth_factor", "embed_dim", "growth", "image_size", "num_classes", "patch_size"),
  *("width", "width_factor"),
}
# Keywords that change the features whatever the weights are: a difference is refused without computing them.
KNOWN = ("activation", "bn_epsilon", "norm_epsilon", "num_heads", "padding", "pooling")
# The free keywords that the weights' own model takes over from the run for the comparison.
SHARED = ("dtype", "image_size")
# Relative differences of features due to rounding alone; half precision rounds more.
ROUNDING = {jnp.dtype("float32"): 1e-4}
COARSE = 3e-2


def check(
  spec: Spec,
  model: Model,
  start: Weights,
  params: Params,
  batch_stats: Params,
  *,
  image_shape: tuple[int, ...],
  num_classes: int,
  head: bool,
  trust: bool = False,
) -> None:
  """Refuses weights whose features in the run's model differ from those in their own model.

  Models with equal keywords count as equal. A difference in one of `KNOWN` is refused. If other keywords
  differ, or the functions that make the models, the features of one image are compared.

  Args:
    spec, model: of the run.
    start: the weights with the spec of their own model.
    params, batch_stats: the same, as they fit the run's model.
    image_shape: (H, W, 3).
    num_classes: of the run.
    head: whether the head of `start` is kept, and its logits are compared.
    trust: as in `Weights.model_spec`.

  Raises:
    CheckpointError: the features differ; the message names the keywords in which the two models differ.
  """
  theirs = _spec_of(start, trust=trust)
  if theirs is None:
    return
  different = _differences(spec, theirs, head=head)
  if not different:
    return
  if not _known(spec, theirs) and not _other_features(
    model, spec, theirs, params, batch_stats, image_shape=image_shape, num_classes=num_classes, head=head
  ):
    return
  raise CheckpointError(
    f"the weights in {start.path} were trained in another model than this run's: "
    f"{config_lib.first_few(different)}; write that of the weights, model={_written(theirs)}"
  )


def _known(ours: Spec, theirs: Spec) -> bool:
  """Returns whether both models have a keyword of `KNOWN`, with different values."""
  a, b = _effective(ours), _effective(theirs)
  return any(a[name] != b[name] for name in KNOWN if name in a and name in b)


def _other_features(
  model: Model,
  spec: Spec,
  theirs: Spec,
  params: Params,
  batch_stats: Params,
  *,
  image_shape: tuple[int, ...],
  num_classes: int,
  head: bool,
) -> bool:
  shared = {name: value for name, value in spec.keywords.items() if name in SHARED}
  sized = dataclasses.replace(theirs, keywords={**theirs.keywords, **_taken(theirs, shared)})
  try:
    other = sized.realize(num_classes=num_classes)
  except ConfigError:  # its parts are missing here, so that nothing can be compared
    return False
  image = jnp.asarray(np.random.default_rng(0).normal(size=(1, *image_shape)), jnp.float32)
  both = [_features(one, params, batch_stats, image, head=head) for one in (model, other)]
  for a, b in zip(*both, strict=True):
    rounding = ROUNDING.get(a.dtype, COARSE)
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or not np.linalg.norm(x - y) <= rounding * np.linalg.norm(y):
      return True
  return False


def _spec_of(start: Weights, *, trust: bool) -> Spec | None:
  try:
    return start.model_spec(trust=trust)
  except (ConfigError, KeyError):
    return None


def _free(head: bool) -> set[str]:
  return FREE if head else {*FREE, "head"}


def _effective(spec: Spec) -> dict[str, Any]:
  """Returns the keywords, with defaults for those that are left open, as plain data."""
  parameters = inspect.signature(spec.target).parameters.values()
  defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
  plain = {**defaults, **spec.keywords}
  return {name: _shown(value) for name, value in plain.items()}


def _shown(value: Any) -> Any:
  try:
    return config_lib.plain(value)
  except ConfigError:  # a default that no config can write: a function, a type
    return repr(value)


def _differences(ours: Spec, theirs: Spec, *, head: bool) -> list[str]:
  """Returns a line for each place where the two models differ: `padding: 'same' -> 'symmetric'`."""
  other = [] if ours.target is theirs.target else [f"make: {theirs.path!r} -> {ours.path!r}"]
  old, new = _effective(theirs), _effective(ours)
  shared = [name for name in old if name in new and name not in _free(head)]
  return other + config_lib.differences(*({name: one[name] for name in shared} for one in (old, new)))


def _taken(spec: Spec, keywords: Mapping[str, Any]) -> dict[str, Any]:
  """Returns those keywords that the function of a spec has."""
  names = inspect.signature(spec.target).parameters
  return {name: value for name, value in keywords.items() if name in names}


def _features(
  model: Model, params: Params, batch_stats: Params, image: Array, *, head: bool
) -> tuple[Array, ...]:
  """Returns the input of the head, and the logits if `head` is to be compared."""

  def features(params: Params, batch_stats: Params, image: Array) -> tuple[Array, ...]:
    hidden = model.apply(params, batch_stats, image, stop=model.head)[0]["hidden"]
    logits = model.apply(params, batch_stats, image)[0]["logits"] if head else None
    return (hidden,) if logits is None else (hidden, logits)

  with jax.default_matmul_precision("highest"):
    return jax.jit(features)(params, batch_stats, image)


def _written(spec: Spec) -> str:
  """Writes a spec as in a config."""
  plain = {k: v for k, v in config_lib.plain(spec).items() if k != spec.kind}
  rest = "".join(f", {name}={json.dumps(value)}" for name, value in plain.items())
  return f'dict({spec.kind}="{spec.path}"{rest})'
