"""The images on which a measurement is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from jaxtl import data as data_lib
from jaxtl.host.processes import gather_texts
from jaxtl.train import sharding
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row


def subset(
  data: Data, runtime: Runtime, *, num_examples: int, seed: int, part: tuple[float, float] = (0.0, 1.0)
) -> Iterable[Mapping[str, np.ndarray]]:
  """Returns batches of a subset of a source, drawn evenly over the classes.

  With `part`, only that part of every class in the subset is used.
  """
  chosen = data_lib.subset(source=runtime.open(data), num_examples=num_examples, seed=seed)
  if part != (0.0, 1.0):
    chosen = data_lib.part_of(source=chosen, start=part[0], stop=part[1], seed=seed)
  # A larger batch than the subset needs would be computed for nothing.
  few = sharding.whole_batch(len(chosen), runtime.mesh)
  return runtime.eval_batches_of(chosen, dataclasses.replace(data, batch_size=min(data.batch_size, few)))


def draw(
  data: Data, runtime: Runtime, *, num_examples: int, seed: int, part: tuple[float, float] = (0.0, 1.0)
) -> tuple[list[Mapping[str, np.ndarray]], Row]:
  """Returns this process's batches of a subset, and a row that identifies the images.

  The row has the source, the seed and the number of the images.
  """
  drawn = list(subset(data, runtime, num_examples=num_examples, seed=seed, part=part))
  return drawn, {
    "images": runtime.open(data).name,
    "seed_of_images": seed,
    "num_examples": _total(drawn),
  }


def _total(batches: Iterable[Mapping[str, np.ndarray]]) -> int:
  """Counts the unmasked images over all processes."""
  here = sum(int(np.sum(batch["mask"])) for batch in batches)
  return sum(map(int, gather_texts(str(here))))
