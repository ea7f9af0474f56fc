"""The largest curvature of a loss: its definition, and its measurement during training."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtl import config as config_lib
from jaxtl import optim, tree
from jaxtl.host.processes import gather_texts, whole
from jaxtl.host.progress import tell
from jaxtl.measure.images import subset
from jaxtl.measure.landscape import Landscape, extreme_numbers, timed
from jaxtl.measure.losses import common_loss, training_loss
from jaxtl.train import sharding
from jaxtl.train.experiment import Program
from jaxtl.train.inputs import Data
from jaxtl.train.loop import Observer
from jaxtl.train.runtime import Runtime
from jaxtl.types import ExampleLoss, Params, TrainState

# Prefix of the numbers of the training loss.
TRAINING = "training_"


@dataclasses.dataclass(frozen=True)
class Flatness:
  """The largest eigenvalue of the Hessian of the mean loss, by power iteration.

  Largest is meant algebraically: if a negative eigenvalue is larger in magnitude, the iteration is shifted.

  Curvatures of different losses cannot be compared. The cross-entropy makes classifications comparable,
  whatever loss the weights were trained with. Other tasks are measured in their training loss. Normalisation
  uses the stored statistics, and images are not augmented.

  Attributes:
    data: images to measure on, with evaluation transforms.
    num_examples: number of images, drawn evenly over the classes.
    seed: seed of the draw and of the first vector.
    num_iters: maximum number of Hessian products.
    tolerance: relative residual |Hv - lambda v| / |lambda| at which to stop. The relative error of the
      eigenvalue is far smaller: it is quadratic in the residual over the gap to the next eigenvalue.
    evaluate_every: period in steps during training; None uses that of the checkpoints. It has no effect
      outside training.
    training_loss: also measures the loss that a classification is trained with, as `training_lambda_max`.
  """

  data: Data
  num_examples: int = 512
  seed: int = 0
  num_iters: int = 60
  tolerance: float = 1e-2
  evaluate_every: int | None = None
  training_loss: bool = False

  def __post_init__(self) -> None:
    every = self.evaluate_every
    config_lib.require(
      num_examples=(self.num_examples, self.num_examples >= 1, "at least 1"),
      num_iters=(self.num_iters, self.num_iters >= 1, "at least 1"),
      tolerance=(self.tolerance, self.tolerance > 0, "a number above 0"),
      evaluate_every=(every, every is None or every >= 1, "at least 1"),
    )


def observer(
  flatness: Flatness, runtime: Runtime, trail: EigenvectorCache | None = None
) -> Callable[[Program], Observer]:
  """Measures during training and records `flatness/*` in the metrics.

  A measurement that starts from the last eigenvector finds the same, slightly changed eigenvalue. If another
  eigenvalue has overtaken it in the meantime, the result is reported as converged but is not the largest. The
  flatness study starts at random and does not have this weakness.

  Args:
    flatness: the definition of the measurement.
    runtime: the devices and the status line.
    trail: caches the eigenvectors from which the next measurement starts; None starts from a random vector.
  """
  # Reports a source without subsets now, and not at the first checkpoint.
  subset(flatness.data, runtime, num_examples=flatness.num_examples, seed=flatness.seed)

  def make(program: Program) -> Observer:
    def measure(state: TrainState, loss: ExampleLoss, trail: EigenvectorCache | None) -> dict[str, Any]:
      params = optim.averaged(state.opt_state, state.params)
      step = int(state.step)
      landscape = Landscape.of(
        program.model,
        params,
        state.batch_stats,
        loss,
        flatness.data,
        runtime,
        num_examples=flatness.num_examples,
        seed=flatness.seed,
      )
      start = None if trail is None else trail.before(step, landscape.params)
      found = landscape.extremes(num_iters=flatness.num_iters, tolerance=flatness.tolerance, start=start)
      if trail is not None:
        trail.keep(step, found.by_magnitude.vector)
      return {**extreme_numbers(found), "num_examples": landscape.images["num_examples"]}

    def observe(state: TrainState) -> dict[str, float]:
      values = timed(lambda: measure(state, common_loss(program.task), trail))
      if flatness.training_loss and program.task.loss is not None:
        trained = None if trail is None else trail.of_training
        own = timed(lambda: measure(state, training_loss(program.task), trained))
        values |= {f"{TRAINING}{name}": value for name, value in own.items()}
      return {f"flatness/{name}": float(value) for name, value in values.items()}

    return observe

  return make


@dataclasses.dataclass(frozen=True)
class EigenvectorCache:
  """Caches on disk the eigenvectors of the last measurements, from which the next one starts.

  A run that was killed resumes from a checkpoint and repeats the measurements made since. It finds here the
  vector that the uninterrupted run started from, and therefore gets the same numbers.

  Attributes:
    folder: folder of the files, one for each measurement and process.
    period: steps between measurements.
    reach: how many steps a killed run may fall back.
    mesh: the devices.
    note: receives a line about a damaged file.
  """

  folder: Path
  period: int
  reach: int
  mesh: Any
  note: Callable[[str], None] = tell

  @property
  def of_training(self) -> EigenvectorCache:
    """The cache for the training loss, next to this one."""
    return dataclasses.replace(self, folder=self.folder.with_name(f"{self.folder.name}_of_training"))

  def before(self, step: int, like: Params) -> Params | None:
    """Returns the vector of the measurement before `step`, or None unless every process has it."""
    steps = [found for found in self._steps() if step - self.period <= found < step]
    newest = str(max(steps, default=None))
    if len(set(gather_texts(newest))) > 1 or not steps:
      return None
    try:
      with np.load(self._file(max(steps))) as file:
        vector = tree.map_with_path(lambda path, x: file[path].astype(x.dtype), like)
    except Exception as error:  # a flipped bit can raise any error of zipfile or numpy
      what = f"{self._file(max(steps))} cannot be read ({type(error).__name__})"
      self.note(f"{what}: the curvature of step {step} is measured from a random vector")
      vector = None
    if "lost" in gather_texts("lost" if vector is None else "found"):
      return None
    return sharding.put_replicated(vector, self.mesh)

  def keep(self, step: int, vector: Params) -> None:
    """Writes a vector, and removes the vectors that no run can need again."""
    self.folder.mkdir(parents=True, exist_ok=True)
    # float32, because npz files do not support bfloat16.
    leaves = [whole(x).astype(np.promote_types(x.dtype, np.float32)) for x in jax.tree.leaves(vector)]
    arrays: dict[str, Any] = dict(zip(tree.paths(vector), leaves, strict=True))
    partial = self.folder / f".{step}.{jax.process_index()}.partial"
    with partial.open("wb") as file:
      np.savez(file, **arrays)
      file.flush()
      os.fsync(file.fileno())
    partial.replace(self._file(step))
    for old in self._steps():
      if old < step - self.period - self.reach:
        self._file(old).unlink(missing_ok=True)

  def _file(self, step: int) -> Path:
    return self.folder / f"{step}.{jax.process_index()}.npz"

  def _steps(self) -> list[int]:
    found = self.folder.glob(f"*.{jax.process_index()}.npz")
    return [int(path.name.partition(".")[0]) for path in found if path.name.partition(".")[0].isdecimal()]
