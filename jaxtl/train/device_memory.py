"""The memory that a training step needs on each device, as reported by the compiler before anything runs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxtl.host.files import size_text
from jaxtl.train import feed, sharding
from jaxtl.train.experiment import Program
from jaxtl.types import TrainState


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on the device that holds the most.

  Attributes:
    parameters, statistics, optimizer: of the state; the gradient rule's memory counts with the optimizer.
    batch: its images or hidden states, labels and mask.
    scratch: what the step holds at once in addition to these: activations, gradients, the work space of
      kernels; None if the step was not compiled.
  """

  parameters: int
  statistics: int
  optimizer: int
  batch: int
  scratch: int | None = None

  @property
  def total(self) -> int:
    return self.parameters + self.statistics + self.optimizer + self.batch + (self.scratch or 0)

  def __str__(self) -> str:
    parts = [
      f"parameters {size_text(self.parameters)}",
      f"statistics {size_text(self.statistics)}",
      f"optimizer {size_text(self.optimizer)}",
      f"batch {size_text(self.batch)}",
    ]
    if self.scratch is None:
      return ", ".join(parts)
    parts.append(f"activations and scratch {size_text(self.scratch)}")
    return f"{', '.join(parts)}: {size_text(self.total)} as compiled for {jax.default_backend()}"


def predict(
  program: Program,
  state: TrainState,
  *,
  batch_size: int,
  image_size: int,
  mesh: Any,
  compiled: bool,
  hidden: jax.ShapeDtypeStruct | None = None,
) -> Memory:
  """Predicts the memory of a step.

  Args:
    program, state: from `experiment.rehearse`; the state holds shapes.
    batch_size: the global batch size.
    image_size: side of the images in pixels.
    compiled: also compiles the step, which takes as long as it does at the start of a run.
    hidden: one hidden state of `prefix_cache.entering`, for a step that reads hidden states, not images.
  """
  size = lambda values: sharding.bytes_per_device(values, program.placement, mesh)  # noqa: E731
  rows = sharding.over_data(mesh)
  inputs = program.task.inputs(image_size)
  batch = feed.shapes(program.gradient, inputs, batch_size=batch_size, hidden=hidden, where=rows)
  memory = Memory(
    parameters=size(state.params),
    statistics=size(state.batch_stats),
    optimizer=size((state.opt_state, state.memory, state.step)),
    batch=sum(math.prod(rows.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(batch)),
  )
  if not compiled:
    return memory
  placed = sharding.placed(state, program.placement, mesh)
  state = jax.tree.map(lambda x, where: _shape(x.shape, x.dtype, where), state, placed)
  key = jax.eval_shape(lambda: jax.random.key(0))
  found = program.train_step.lower(state, batch, key).compile().memory_analysis()  # type: ignore[attr-defined]
  # Outputs not aliased to donated inputs: metrics, plus state that cannot be donated.
  returned = found.output_size_in_bytes - found.alias_size_in_bytes
  return dataclasses.replace(memory, scratch=found.temp_size_in_bytes + max(returned, 0))


def _shape(shape: tuple[int, ...], dtype: Any, where: NamedSharding) -> Any:
  return jax.ShapeDtypeStruct(shape, dtype, sharding=where)
