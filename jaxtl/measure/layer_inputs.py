"""Caches a layer's inputs for all images on the host, so that the layers below run once and not per trial."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtl import tree
from jaxtl.measure.losses import summed
from jaxtl.train import compiled, sharding
from jaxtl.train.runtime import Runtime
from jaxtl.types import Array, Batch, ExampleLoss, Model, Params
from jaxtl.weights import Group

HostBatch = Mapping[str, np.ndarray]
LossFn = Callable[[Params, Batch], tuple[Array, Array]]


class LayerInputs:
  """The hidden states that enter a block, initially the images; `move_to` runs the blocks up to another one.

  Normalisation uses the stored statistics, which do not change.

  Attributes:
    at: the block that the states enter.
  """

  def __init__(
    self, model: Model, params: Params, batch_stats: Params, batches: Sequence[HostBatch], runtime: Runtime
  ):
    """Stores the network, which is on the devices, and this process's batches of image, targets and mask."""
    self._model, self._params, self._stats, self._runtime = model, params, batch_stats, runtime
    self._batches = [dict(batch) for batch in batches]
    self.at = model.blocks[0]

  def move_to(self, block: str) -> None:
    """Runs the blocks from `at` to `block`, which must not be below `at`.

    The previous states are discarded.
    """
    if block == self.at:
      return
    step = _prefix(self._model, self.at, block, self._runtime.mesh)
    between = self._between(self.at, block)
    for batch in self._runtime.moving(self._batches):
      there = sharding.put_batch({"image": batch["image"]}, self._runtime.mesh)
      batch["image"] = sharding.own_rows(step(between, self._stats, there["image"]))
    self.at = block

  def loss_of(self, group: Group, loss: ExampleLoss) -> tuple[LossFn, Params, Callable[[], Iterable[Batch]]]:
    """Returns the loss as a function of one layer's parameters alone, evaluated from `at` on.

    Args:
      group: none of its blocks is below `at`.
      loss: (features, batch) -> [B].

    Returns:
      (params of the layer, batch) -> (sum of the losses, their number), the layer's parameters, and a
      function that iterates over the batches.
    """
    others = self._between(self.at, None)
    own = {block: others.pop(block) for block in group.blocks if block in others}

    def batches() -> Iterator[Batch]:
      rest: dict[str, Any] = {"batch_stats": self._stats, "others": others}
      for batch in self._runtime.moving(self._batches):
        yield {**sharding.put_batch(batch, self._runtime.mesh), **rest}

    return summed(self._model, loss, self.at), own, batches

  def _between(self, start: str, stop: str | None) -> dict[str, Params]:
    """Returns the parameters of the blocks from `start` to `stop`, exclusive."""
    blocks = self._model.blocks
    last = len(blocks) if stop is None else blocks.index(stop)
    return {name: self._params[name] for name in blocks[blocks.index(start) : last] if name in self._params}


@compiled.kept
def _prefix(model: Model, start: str, stop: str, mesh: Any) -> Callable[[Params, Params, Array], Array]:
  def prefix(params: Params, batch_stats: Params, hidden: Array) -> Array:
    return model.apply(params, batch_stats, hidden, start=start, stop=stop)[0]["hidden"]

  return jax.jit(prefix, out_shardings=sharding.over_data(mesh))


def resolution(params: Params) -> float:
  """Returns the relative rounding error of a loss: a few units in the last place of the parameters' type."""
  types = [tree.wide(x).dtype for x in jax.tree.leaves(params)]
  return 8 * max(float(np.finfo(kind).eps) for kind in types)
