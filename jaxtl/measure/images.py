"""The images that a measurement is made on."""

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
  """Batches of a subset of a source, drawn evenly over the classes, or of a part of every class in it."""
  chosen = data_lib.subset(source=runtime.open(data), num_examples=num_examples, seed=seed)
  if part != (0.0, 1.0):
    chosen = data_lib.part_of(source=chosen, start=part[0], stop=part[1], seed=seed)
  # A batch of a few images is no larger than that: the rest would be computed for nothing.
  few = sharding.whole_batch(len(chosen), runtime.mesh)
  return runtime.eval_batches_of(chosen, dataclasses.replace(data, batch_size=min(data.batch_size, few)))


def draw(
  data: Data, runtime: Runtime, *, num_examples: int, seed: int, part: tuple[float, float] = (0.0, 1.0)
) -> tuple[list[Mapping[str, np.ndarray]], Row]:
  """This process's batches of a subset, and what they are: source, seed and number of the images."""
  drawn = list(subset(data, runtime, num_examples=num_examples, seed=seed, part=part))
  return drawn, {
    "images": runtime.open(data).name,
    "seed_of_images": seed,
    "num_examples": _total(drawn),
  }


def _total(batches: Iterable[Mapping[str, np.ndarray]]) -> int:
  """How many images count, over all processes."""
  here = sum(int(np.sum(batch["mask"])) for batch in batches)
  return sum(map(int, gather_texts(str(here))))
