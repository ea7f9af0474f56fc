"""Normalisation statistics for a moving average of weights.

No batch has passed through the averaged weights. Neither the running statistics of training, which are those
of the last weights, nor an average of them fits. The statistics are estimated from training images wherever
the averaged weights are evaluated or saved. Training continues with its own statistics, which do not change.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxtl import optim
from jaxtl.host.processes import whole
from jaxtl.train import sharding
from jaxtl.train.batch_stats import reestimated
from jaxtl.train.inputs import Data
from jaxtl.train.loop import Observer
from jaxtl.train.runtime import Runtime
from jaxtl.types import Array, Model, Params, TrainState

# Images that statistics are estimated from, rounded up to whole batches, at most one epoch. Wu and
# Johnson, "Rethinking 'Batch' in BatchNorm", 2021, arXiv 2105.07576, section 3: 10^3 to 10^4 are enough.
IMAGES = 2048


class Averages:
  """The statistics that a run evaluates and saves if its optimiser keeps a moving average of the weights.

  Statistics that training has not changed are kept: the task or the gradient rule normalises with the stored
  ones, and the averaged weights were trained with them.

  Args:
    model: the network.
    start: the state before the first step.
    batches: the training batches to estimate from, the same ones every time.
    mesh: the devices.
  """

  def __init__(self, model: Model, start: TrainState, batches: Iterable[Mapping[str, Any]], *, mesh: Any):
    self._model, self._batches, self._mesh = model, batches, mesh
    # Copies, because the first step overwrites the memory of the state.
    self._start = jax.tree.map(lambda x: np.array(whole(x)), start.batch_stats)
    self._known: tuple[Array, Params] | None = None

  def statistics(self, state: TrainState) -> Params:
    """Returns the statistics of the weights to use: those of the moving average, or else the state's own."""
    used = optim.averaged(state.opt_state, state.params)
    if used is state.params or not self._are_moved(state.batch_stats):
      return state.batch_stats
    # Compared by identity, not by value: a run that rolls back reaches the same step twice.
    if self._known is None or self._known[0] is not state.step:
      images = (batch["image"] for batch in self._batches)
      found = reestimated(self._model, used, state.batch_stats, images, mesh=self._mesh)
      self._known = state.step, sharding.put_replicated(found, self._mesh)
    return self._known[1]

  def known(self, state: TrainState) -> Params:
    """Returns these statistics if they have been estimated already, else the state's own."""
    return self._known[1] if self._known and self._known[0] is state.step else state.batch_stats

  def shown_to(self, observe: Observer) -> Observer:
    """Wraps an observer so that it sees the state with these statistics."""

    def observer(state: TrainState) -> Mapping[str, float]:
      return observe(dataclasses.replace(state, batch_stats=self.statistics(state)))

    return observer

  def _are_moved(self, batch_stats: Params) -> bool:
    """Returns whether there are statistics and training has changed every one of them."""
    pairs = list(zip(jax.tree.leaves(batch_stats), jax.tree.leaves(self._start), strict=True))
    return bool(pairs) and not any(np.array_equal(whole(now), before) for now, before in pairs)


def batches(data: Data, runtime: Runtime, *, seed: int) -> Iterable[Mapping[str, Any]]:
  """Returns the first batches of a run, augmented as in training: `IMAGES` images, at most one epoch."""
  epoch = len(runtime.open(data)) // data.batch_size
  count = max(min(math.ceil(IMAGES / data.batch_size), epoch), 1)
  return runtime.first_batches(data, seed=seed, num_batches=count)
